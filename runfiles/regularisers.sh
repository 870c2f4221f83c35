#!/bin/sh
# Compare regularisers of MAML, and the parts of Meta-dropout: all perturbations, Meta-SGD, Prototypical Networks, ANIL
# and BOIL on Omniglot 5-way 1-shot, 3 seeds each. First seed 0, with three strengths of those that have one; then the
# other seeds, with the strength that is best on the validation classes. Half a day on two CPU cores. Run again, it
# resumes. JOBS="1" makes one run at a time. The flags of this command go to all training and tests.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
D=results/regularisers
for seeds in 0 "1 2"; do
  "$PYTHON" runfiles/regularisers.py $D --runs $seeds -- "$@" | "$PYTHON" runfiles/train_all.py ${JOBS:+--jobs $JOBS}
done
"$PYTHON" runfiles/regularisers.py $D --figure $D/regularisers.png
