#!/bin/sh
# MAML and Meta-dropout on the built-in glyphs, 10-way 1-shot, trained for 80 iterations, and the pair of pretrained/,
# trained for 1000: all tested on the same episodes, and figures. Seven minutes on 2 slow cores.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
D=results/demo
"$PYTHON" get_data.py --dataset glyphs
rm -rf $D
for model in maml metadrop; do
  "$PYTHON" main.py --mode meta_train --savedir $D/$model --model $model --dataset glyphs --way 10 --shot 1 --query 5 \
    --metabatch 4 --n_train_iters 80 --val_every 40 --n_val_tasks 20 --save_freq 40
  "$PYTHON" main.py --mode meta_test --savedir $D/$model --n_test_iters 100 --n_test_mc_samp 3
  "$PYTHON" main.py --mode export --savedir $D/$model --export_tasks 2
done
for model in maml metadrop; do
  "$PYTHON" main.py --mode meta_test --savedir $D/${model}_1000 --weights pretrained/glyphs_10way_1shot_$model.npz \
    --n_test_iters 100 --n_test_mc_samp 3
done
"$PYTHON" plot.py --savedir $D/maml $D/metadrop --tasks 0 1
echo "the figures: open $D/maml/plot/index.html in a browser"
"$PYTHON" main.py --mode compare --savedir $D/maml $D/metadrop
"$PYTHON" main.py --mode compare --savedir $D/maml_1000 $D/metadrop_1000
