#!/bin/sh
# MAML and Meta-dropout on the built-in glyphs, 10-way 1-shot, trained until neither improves: the pair of pretrained/.
# Half an hour on two CPU cores. Run again, it resumes. The flags of this command go to all training and tests, those in
# TRAIN_FLAGS or TEST_FLAGS to one of them.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
D=results/glyphs
[ -e data/glyphs ] || "$PYTHON" get_data.py --dataset glyphs
for model in maml metadrop; do
  "$PYTHON" main.py --mode meta_train --savedir $D/$model --resume --model $model --dataset glyphs --way 10 --shot 1 \
    --query 5 --metabatch 4 --n_train_iters 1000 --val_every 200 --n_val_tasks 100 --save_freq 100 ${TRAIN_FLAGS-} "$@"
  "$PYTHON" main.py --mode meta_test --savedir $D/$model --n_test_iters 1000 --n_test_mc_samp 10 ${TEST_FLAGS-} "$@"
done
"$PYTHON" main.py --mode compare --savedir $D/maml $D/metadrop
