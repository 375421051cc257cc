#!/usr/bin/env bash
# A short end-to-end run of the built binary in an empty folder: it must balance and equal the simulator's truth.
set -euo pipefail
cd "$(dirname "$0")/.."
make -s engine build
data=$(mktemp -d)
trap 'rm -rf "$data"' EXIT
bin/welfarehub up --data "$data/hub" --http 127.0.0.1:0 --kafka 127.0.0.1:0 --registry 127.0.0.1:0 \
  --clickhouse-native 127.0.0.1:0 --clickhouse-http 127.0.0.1:0 --once "${EVENTS:-50000}" \
  --duplicates 0.05 --invalid 0.01 --corrections 0.02 --revocations 0.005 --erasures 0.0005 --late 0.05 --seed 7
