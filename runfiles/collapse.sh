#!/bin/sh
# Neural collapse in MAML and Meta-dropout: Omniglot 5-way 5-shot, measured every 100 iterations of training and over
# 1000 test tasks, and drawn side by side. Run again, it resumes. Two CPU cores: an hour and a quarter. DATASET=mimgnet:
# the first study's setting (4 tasks, 15 queries, inner 0.01 x 5); SHOT=1 for 1-shot; ITERATIONS, SEEDS and LEARNERS
# ("maml metadrop metanet_original") for others. The flags of this command go to all training and tests, those in
# TRAIN_FLAGS or TEST_FLAGS to one of them.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
DATASET=${DATASET:-omniglot}
SHOT=${SHOT:-5}
D=results/collapse/${DATASET}_${SHOT}shot
case $DATASET in
  mimgnet) inner="--n_steps 5 --inner_lr 0.01" ;;
  *) inner="--n_steps 5 --inner_lr 0.1" ;;
esac
folders=
for seed in ${SEEDS:-0}; do
  for model in ${LEARNERS:-maml metadrop}; do
    folder=$D/${model}_$seed
    folders="$folders $folder"
    case $model in metanet*) steps= ;; *) steps=$inner ;; esac
    "$PYTHON" main.py --mode meta_train --savedir "$folder" --resume --model $model --dataset "$DATASET" \
      --way 5 --shot "$SHOT" --query 15 --metabatch 4 $steps --meta_lr 1e-3 --n_train_iters "${ITERATIONS:-2000}" \
      --collapse_every 100 --val_every 200 --n_val_tasks 100 --save_freq 200 --seed "$seed" \
      ${TRAIN_FLAGS-} "$@"
    for mode in meta_test collapse; do
      "$PYTHON" main.py --mode $mode --savedir "$folder" --n_test_iters 1000 ${TEST_FLAGS-} "$@"
    done
  done
done
case $folders in " "*" "*) "$PYTHON" main.py --mode compare --savedir $folders ;; esac
"$PYTHON" plot.py --savedir $folders --figures collapse curves histogram
