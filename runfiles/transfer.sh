#!/bin/sh
# Measure transfer between datasets: both learners on Omniglot and on the glyphs, 5-way 1-shot, 3 seeds each; then each
# run on the test classes of both datasets, beside the nearest neighbour in pixels. Two hours on two CPU cores. Run
# again, it resumes. JOBS="1" trains one run at a time. The flags of this command go to all training.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
D=results/transfer
"$PYTHON" runfiles/transfer.py $D --runs -- "$@" | "$PYTHON" runfiles/train_all.py ${JOBS:+--jobs $JOBS}
"$PYTHON" runfiles/transfer.py $D
