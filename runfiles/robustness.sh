#!/bin/sh
# Is Meta-dropout's robustness to attacks real? Omniglot 5-way: both learners with both meta-gradients, and MAML trained
# on attacked images, 3 seeds; curves by the attack's radius, and more attacks than one; last the 20-way pair of
# pretrained/. Four days on two CPU cores: most of it is the attacks. Run again, it goes on where it was. JOBS="1" runs
# one at a time. Flags given here go to all training, tests and attacks.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
D=results/robustness
for part in runs probes; do
  "$PYTHON" runfiles/robustness.py $D --$part -- "$@" | "$PYTHON" runfiles/train_all.py ${JOBS:+--jobs $JOBS}
done
for model in maml metadrop; do
  "$PYTHON" main.py --mode attack --savedir $D/20way_$model --weights pretrained/omniglot_20way_1shot_$model.npz \
    --query 5 --n_test_iters 100 --n_test_mc_samp 10 --metabatch 2 "$@"
done
"$PYTHON" runfiles/robustness.py $D
