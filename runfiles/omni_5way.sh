#!/bin/sh
# Omniglot 5-way on two CPU cores: both learners; 1-shot with the published and the exact meta-gradient, 4 seeds; 5-shot
# with the published one, 3 seeds. Run again, it resumes. SEEDS="0" for one seed. The flags of this command go to all
# training and tests, those in TRAIN_FLAGS or TEST_FLAGS to one of them.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
D=results/omni_5way

run() { # shot, inner_lr, iterations, model, gradient, seed, more flags
  folder=$D/$1shot/$4_$5_$6
  settings="--dataset omniglot --way 5 --shot $1 --query 15 --metabatch 4 --inner_lr $2 --meta_lr 1e-3 --model $4"
  settings="$settings --meta_gradient $5 --seed $6 --n_train_iters $3 --val_every 200 --n_val_tasks 100 --save_freq 200"
  shift 6
  "$PYTHON" main.py --mode meta_train --savedir "$folder" --resume $settings ${TRAIN_FLAGS-} "$@"
  "$PYTHON" main.py --mode meta_test --savedir "$folder" --n_test_iters 400 --n_test_mc_samp 10 ${TEST_FLAGS-} "$@"
}

for seed in ${SEEDS:-0 1 2 3}; do
  for model in maml metadrop; do
    run 1 0.1 800 $model published "$seed" "$@"
    run 1 0.1 800 $model exact "$seed" "$@"
  done
done
for seed in ${SEEDS:-0 1 2}; do
  for model in maml metadrop; do
    run 5 0.1 400 $model published "$seed" "$@"  # at 0.4, the 20-way cell's, five-way MAML rises and falls again
  done
done
"$PYTHON" runfiles/omni_5way.py $D --figure $D/gradients.png
