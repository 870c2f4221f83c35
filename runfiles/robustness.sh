#!/bin/sh
# Test whether Meta-dropout's robustness to attacks is real. Omniglot 5-way: both learners with both meta-gradients, 3
# seeds, under several attacks; and curves by the attack's radius for these, for MAML trained on attacked images, for
# 5-shot runs, for the runs of runfiles/regularisers.sh, and for the 20-way pair of pretrained/. Half a day on two CPU
# cores, mostly for the attacks. Run again, it resumes. JOBS="1" makes one run at a time. The flags of this command go
# to all training, tests and attacks.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
D=results/robustness
for part in runs probes; do
  "$PYTHON" runfiles/robustness.py $D --$part -- "$@" | "$PYTHON" runfiles/train_all.py ${JOBS:+--jobs $JOBS}
done
for attack in "linf --threat joint" "linf --threat remaining" "l2 --threat joint"; do
  for model in maml metadrop; do
    "$PYTHON" main.py --mode attack --savedir $D/${model}_20way_0 --weights pretrained/omniglot_20way_1shot_$model.npz \
      --norm $attack --query 3 --n_test_iters 100 --n_test_mc_samp 10 --metabatch 2 "$@"
  done
done
"$PYTHON" runfiles/robustness.py $D
