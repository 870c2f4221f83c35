#!/bin/sh
# Is Meta-dropout's robustness to attacks real? Omniglot 5-way: both learners with both meta-gradients, 3 seeds, under
# more attacks than one; and the curves by the attack's radius of these, of MAML trained on attacked images, of 5-shot
# runs, of those that runfiles/regularisers.sh has left, and of the 20-way pair of pretrained/. Half a day on two CPU
# cores: most of it is the attacks. Run again, it goes on where it was. JOBS="1" runs one at a time. Flags given here go
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
