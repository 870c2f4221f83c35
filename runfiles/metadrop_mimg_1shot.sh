#!/bin/sh
# Table 1: Meta-dropout, miniImageNet 5-way 1-shot. Run again, it resumes from the last checkpoint.
# Flags go to both commands, for example --gpu_id 1 --data_dir /data; those in TRAIN_FLAGS or TEST_FLAGS to one.
# The TF1 code's other settings: all revisions are the same.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
D=results/metadrop/mimg_1shot
"$PYTHON" main.py --mode meta_train --savedir $D --resume --model metadrop --dataset mimgnet \
  --way 5 --shot 1 --query 15 --metabatch 4 --n_steps 5 --inner_lr 0.01 --meta_lr 1e-4 \
  --n_train_iters 60000 ${TRAIN_FLAGS-} "$@"
"$PYTHON" main.py --mode meta_test --savedir $D --metabatch 1 --n_test_iters 1000 --n_test_mc_samp 30 \
  ${TEST_FLAGS-} "$@"
