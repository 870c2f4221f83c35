#!/bin/sh
# Share each metabatch over WORKERS (2) processes of this machine: sh runfiles/workers.sh --savedir D [flags]. On
# several machines, start main.py once on each, with a TF_CONFIG that names all of them and a D that all can read.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
WORKERS=${WORKERS:-2} PORT=${PORT:-23450}

addresses="" index=0
while [ $index -lt "$WORKERS" ]; do
  addresses="$addresses${addresses:+, }\"localhost:$((PORT + index))\""
  index=$((index + 1))
done
trap 'kill -INT $(jobs -p) 2>/dev/null' INT TERM
while [ $index -gt 0 ]; do
  index=$((index - 1))
  export TF_CONFIG="{\"cluster\": {\"worker\": [$addresses]}, \"task\": {\"type\": \"worker\", \"index\": $index}}"
  if [ $index -gt 0 ]; then "$PYTHON" main.py --mode meta_train "$@" & else "$PYTHON" main.py --mode meta_train "$@"; fi
done
wait
