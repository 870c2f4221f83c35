#!/bin/sh
# What regularises MAML, and what of Meta-dropout matters: all perturbations, Meta-SGD, Prototypical Networks, ANIL and
# BOIL on Omniglot 5-way 1-shot, 3 seeds each. First seed 0, with three strengths of those that have one; then the
# other seeds, with the strength that does best on the validation classes. Half a day on two CPU cores. Run again, it
# goes on where it was. JOBS="1" runs one at a time. Flags given here go to all training and tests.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
D=results/regularisers
for seeds in 0 "1 2"; do
  "$PYTHON" runfiles/regularisers.py $D --runs $seeds -- "$@" | "$PYTHON" runfiles/train_all.py ${JOBS:+--jobs $JOBS}
done
"$PYTHON" runfiles/regularisers.py $D --figure $D/regularisers.png
