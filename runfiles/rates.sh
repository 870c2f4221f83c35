#!/bin/sh
# Compare MAML and Meta-dropout, each with its best meta-gradient and rates. Omniglot 5-way 1-shot: both learners, both
# gradients, three inner rates and three meta rates, with seed 0; then the best rates of each, which the validation
# classes choose, with two more seeds, and tests of these alone. A day on two CPU cores. Run again, it resumes. The
# flags of this command go to all training and tests, those in TRAIN_FLAGS or TEST_FLAGS to one of them. A pair of rates
# at which training diverges is skipped.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
D=results/rates

train() { # model, gradient, inner_lr, meta_lr, seed, more flags
  folder=$D/$1_$2_$3_$4_$5
  settings="--dataset omniglot --way 5 --shot 1 --query 15 --metabatch 4 --model $1 --meta_gradient $2 --inner_lr $3"
  settings="$settings --meta_lr $4 --seed $5 --n_train_iters 800 --val_every 800 --n_val_tasks 400 --save_freq 100"
  shift 5
  "$PYTHON" main.py --mode meta_train --savedir "$folder" --resume $settings ${TRAIN_FLAGS-} "$@"
}

for model in maml metadrop; do
  for gradient in published exact; do
    for inner_lr in 0.05 0.1 0.2; do
      for meta_lr in 3e-4 1e-3 3e-3; do
        train $model $gradient $inner_lr $meta_lr 0 "$@" || [ $? = 2 ]
      done
    done
    best=$("$PYTHON" runfiles/rates.py $D --best $model $gradient)
    for seed in 0 1 2; do
      train $model $gradient $best $seed "$@"
      "$PYTHON" main.py --mode meta_test --savedir "$folder" --n_test_iters 400 --n_test_mc_samp 10 ${TEST_FLAGS-} "$@"
    done
  done
done
"$PYTHON" runfiles/rates.py $D
