#!/usr/bin/env bash
# Installs what the tests need and the machine lacks: Debian packages, Python clients and the JDBC driver.
set -euo pipefail
cd "$(dirname "$0")/.."
missing=()
for want in javac:openjdk-17-jdk-headless mvn:maven npm:npm python3:python3 gcc:gcc; do
  command -v "${want%%:*}" >/dev/null || missing+=("${want#*:}")
done
if [ "${#missing[@]}" -gt 0 ]; then
  apt-get update -q
  apt-get install -y -q --no-install-recommends "${missing[@]}"
fi
if ! .cache/python/bin/python -c 'import confluent_kafka, fastavro, clickhouse_connect, kafka' 2>/dev/null; then
  python3 -m venv .cache/python
  .cache/python/bin/pip install -q --disable-pip-version-check -r tests/python/requirements.txt
fi
tests/jdbc/install.sh
