#!/bin/sh
# What two cores can do in half an hour: Omniglot 5-way 1-shot, both learners, published and exact meta-gradient.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
D=results/omni_5way
for gradient in published exact; do
  for model in maml metadrop; do
    "$PYTHON" main.py --mode meta_train --savedir $D/${model}_$gradient --resume --model $model --meta_gradient $gradient \
      --dataset omniglot --way 5 --shot 1 --query 15 --metabatch 4 --inner_lr 0.1 --meta_lr 1e-3 \
      --n_train_iters 800 --val_every 200 --save_freq 200 "$@"
    "$PYTHON" main.py --mode meta_test --savedir $D/${model}_$gradient --n_test_iters 400 --n_test_mc_samp 10 "$@"
  done
done
"$PYTHON" main.py --mode compare --savedir $D/maml_published $D/metadrop_published $D/maml_exact $D/metadrop_exact
