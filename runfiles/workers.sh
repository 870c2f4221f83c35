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
pids=""
trap : INT # a terminal sends Ctrl-C to the workers, too
trap 'kill -TERM $pids 2>/dev/null || :' TERM
while [ $index -gt 0 ]; do
  index=$((index - 1))
  export TF_CONFIG="{\"cluster\": {\"worker\": [$addresses]}, \"task\": {\"type\": \"worker\", \"index\": $index}}"
  "$PYTHON" main.py --mode meta_train "$@" &
  pids="$pids $!"
done
code=0
for pid in $pids; do
  wait "$pid" && own=0 || own=$?
  while kill -0 "$pid" 2>/dev/null; do wait "$pid" && own=0 || own=$?; done # a signal ends `wait`, not the worker
  [ $own -eq 0 ] || code=$own
done
exit $code
