#!/bin/bash
# A Prefect worker that is also a node of the Ray cluster at RAY_ADDRESS (host:port), as every Ray driver must be. The node
# offers no CPU and no GPU: actors run on the others. Without RAY_ADDRESS each run starts Ray on this machine.
set -euo pipefail
if [[ -n "${RAY_ADDRESS:-}" ]]; then
  ray start --address="$RAY_ADDRESS" --num-cpus=0 --num-gpus=0 --disable-usage-stats
fi
exec prefect worker start --pool "${INSTAFACE_POOL:-instaface}" "$@"
