#!/bin/bash
# A Prefect worker that is also a node of the Ray cluster at RAY_ADDRESS (host:port), as every Ray driver must be. The node
# offers no CPU and no GPU: actors run on the others. Without RAY_ADDRESS each run starts Ray on this machine.
set -euo pipefail
pool="${INSTAFACE_POOL:-instaface}"
if [[ -z "${RAY_ADDRESS:-}" ]]; then
  exec prefect worker start --pool "$pool" "$@"
fi
ray start --address="$RAY_ADDRESS" --num-cpus=0 --num-gpus=0 --disable-usage-stats --block &
node=$!
# The node registers within seconds; a run that starts before it has would not find its cluster.
until [[ -S "${RAY_TMPDIR:-/tmp}/ray/session_latest/sockets/raylet" ]]; do
  kill -0 "$node"
  sleep 0.2
done
prefect worker start --pool "$pool" "$@" &
worker=$!
trap 'kill -TERM "$worker"' TERM INT
# Whichever ends first ends both: without its node, the worker's runs could not reach the cluster.
status=0
wait -n "$node" "$worker" || status=$?
kill -TERM "$worker" 2> /dev/null || true
wait "$worker" || true
kill -TERM "$node" 2> /dev/null || true
wait "$node" || true
exit "$status"
