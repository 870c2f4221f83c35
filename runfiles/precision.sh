#!/bin/sh
# Compare training in bfloat16 with float32: MAML and Meta-dropout on Omniglot 5-way 1-shot, all tested in float32 on
# the same episodes; 4 seeds. Four hours on two CPU cores. Run again, it resumes. SEEDS="0" for one seed. The flags of
# this command go to all training and tests, those in TRAIN_FLAGS or TEST_FLAGS to one of them.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
D=results/precision
for seed in ${SEEDS:-0 1 2 3}; do
  for precision in float32 bf16; do
    for model in maml metadrop; do
      folder=$D/${model}_${precision}_$seed
      "$PYTHON" main.py --mode meta_train --savedir $folder --resume --dataset omniglot --way 5 --shot 1 --query 15 \
        --metabatch 4 --n_train_iters 800 --val_every 200 --n_val_tasks 100 --save_freq 100 --model $model \
        --precision $precision --seed "$seed" ${TRAIN_FLAGS-} "$@"
      "$PYTHON" main.py --mode meta_test --savedir $folder --precision float32 --n_test_iters 400 \
        --n_test_mc_samp 10 ${TEST_FLAGS-} "$@"
    done
  done
done
"$PYTHON" runfiles/precision.py $D
