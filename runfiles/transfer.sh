#!/bin/sh
# Does what was learned on one dataset serve on another? Both learners on Omniglot and on the glyphs, 5-way 1-shot, 3
# seeds each; then each on the test classes of both, beside the nearest neighbour in pixels. Two hours on two CPU
# cores. Run again, it goes on where it was. JOBS="1" trains one at a time. Flags given here go to all training.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
D=results/transfer
"$PYTHON" runfiles/transfer.py $D --runs -- "$@" | "$PYTHON" runfiles/train_all.py ${JOBS:+--jobs $JOBS}
"$PYTHON" runfiles/transfer.py $D
