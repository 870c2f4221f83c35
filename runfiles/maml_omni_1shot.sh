#!/bin/sh
# Table 1: MAML, Omniglot 20-way 1-shot. Run again, it resumes from the last checkpoint.
# Flags go to both commands, for example --gpu_id 1 --data_dir /data; those in TRAIN_FLAGS or TEST_FLAGS to one.
# The TF1 code's other settings: last revision (27 Apr 2020):
#   TRAIN_FLAGS="--metabatch 4 --n_train_iters 60000 --legacy_shared_classes"
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
D=results/maml/omni_1shot
"$PYTHON" main.py --mode meta_train --savedir $D --resume --model maml --dataset omniglot --train_split trainval \
  --way 20 --shot 1 --query 15 --metabatch 8 --n_steps 5 --inner_lr 0.1 --meta_lr 1e-3 \
  --n_train_iters 40000 ${TRAIN_FLAGS-} "$@"
"$PYTHON" main.py --mode meta_test --savedir $D --metabatch 1 --n_test_iters 1000 --n_test_mc_samp 1 \
  ${TEST_FLAGS-} "$@"
