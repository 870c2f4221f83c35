#!/bin/sh
# All eight cells of Table 1, one after the other, and then the table. The flags of this command go to all training and
# tests, e.g. --gpu_id 1, those in TRAIN_FLAGS or TEST_FLAGS to one of them.
set -eu
cd "$(dirname "$0")"
for cell in omni_1shot omni_5shot mimg_1shot mimg_5shot; do
  for model in maml metadrop; do
    ./${model}_$cell.sh "$@"
  done
done
cd ..
"${PYTHON:-.venv/bin/python}" runfiles/study.py table1 table
