#!/bin/sh
# A quick start on the built-in glyphs, 10-way 1-shot: a short training of Meta-dropout; and the pair of pretrained/,
# whose training took 1000 iterations, tested on the same episodes and drawn. It takes about two minutes on two cores
# of an AMD EPYC.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
D=results/demo
"$PYTHON" get_data.py --dataset glyphs
rm -rf $D
"$PYTHON" main.py --mode meta_train --savedir $D/training --dataset glyphs --way 10 --shot 1 --query 5 --metabatch 4 \
  --n_train_iters 30 --val_every 30 --n_val_tasks 20 --save_freq 30
for model in maml metadrop; do
  "$PYTHON" main.py --mode meta_test --savedir $D/$model --weights pretrained/glyphs_10way_1shot_$model.npz \
    --n_test_iters 60 --n_test_mc_samp 3
  "$PYTHON" main.py --mode export --savedir $D/$model --export_tasks 1
done
"$PYTHON" plot.py --savedir $D/maml $D/metadrop --figures boundary features histogram --format png
echo "the figures: open $D/maml/plot/index.html in a browser"
"$PYTHON" main.py --mode compare --savedir $D/maml $D/metadrop
