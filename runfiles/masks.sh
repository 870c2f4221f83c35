#!/bin/sh
# One mask per task, and none: Meta Networks and MAML on Omniglot's background set, 2000 tasks of 5-way 1-shot, tested
# on 1000 tasks of the evaluation set. Run again, it resumes. SIZE=105 for the published image size (8 hours on two CPU
# cores); SEEDS, LEARNERS, KINDS for a part or for more: KINDS="none mask scaled support_only per_sample". The flags of
# this command go to all training and tests, those in TRAIN_FLAGS or TEST_FLAGS to one of them.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
SIZE=${SIZE:-28}
DATA=${DATA:-data}
[ "$SIZE" = 28 ] || DATA=$DATA/$SIZE
[ -e "$DATA/omniglot" ] || "$PYTHON" get_data.py --dataset omniglot --size "$SIZE" --data_dir "$DATA" ${SOURCE:+--source "$SOURCE"}

for seed in ${SEEDS:-0 1 2}; do
  for model in ${LEARNERS:-metanet_embedding metanet_original maml}; do
    for kind in ${KINDS:-none mask}; do
      folder=results/masks/$SIZE/$model/${kind}_$seed
      case $model in # the original's metabatches; updates are one more than --n_train_iters
        metanet_embedding) settings="--metabatch 8 --n_train_iters 249" ;;
        metanet_original) settings="--metabatch 16 --n_train_iters 124" ;;
        maml) settings="--metabatch 16 --n_train_iters 124 --n_steps 5 --inner_lr 0.01 --meta_gradient exact" ;;
      esac
      case $kind in
        none) ;;
        mask) settings="$settings --perturbation mask" ;;
        *) settings="$settings --perturbation mask --mask_$kind" ;;
      esac
      "$PYTHON" main.py --mode meta_train --savedir "$folder" --resume --model $model --dataset omniglot \
        --data_dir "$DATA" --split background --way 5 --shot 1 --query 15 --meta_lr 1e-3 --clip_norm 1 --seed "$seed" \
        --save_freq 50 $settings ${TRAIN_FLAGS-} "$@"
      "$PYTHON" main.py --mode meta_test --savedir "$folder" --metabatch 4 --n_test_iters 1000 ${TEST_FLAGS-} "$@"
    done
  done
done
"$PYTHON" runfiles/masks.py "results/masks/$SIZE"
