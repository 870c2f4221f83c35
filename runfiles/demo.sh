#!/bin/sh
# MAML and Meta-dropout on the built-in glyphs, 5-way 1-shot, tested on the same episodes, and their figures.
# About four minutes on 2 cores.
set -eu
BIN=${BIN:-.venv/bin}
DEMO=${DEMO:-results/demo}
"$BIN/python" get_data.py --dataset glyphs
rm -rf "$DEMO"
for model in maml metadrop; do
  "$BIN/python" main.py --mode meta_train --savedir "$DEMO/$model" --model $model --dataset glyphs \
    --way 5 --shot 1 --query 15 --metabatch 4 --n_train_iters 100 --val_every 50 --n_val_tasks 40 --save_freq 50
  "$BIN/python" main.py --mode meta_test --savedir "$DEMO/$model" --n_test_iters 100
  "$BIN/python" main.py --mode export --savedir "$DEMO/$model"
done
"$BIN/python" main.py --mode compare --savedir "$DEMO/maml" "$DEMO/metadrop"
"$BIN/python" plot.py --savedir "$DEMO/maml" "$DEMO/metadrop"
echo "the figures: open $DEMO/maml/plot/index.html in a browser"
