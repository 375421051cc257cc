#!/usr/bin/env bash
# Installs the ClickHouse engine library into .cache/engine of the project, exactly as package-lock.json pins it.
# Running it again does nothing when the pinned version is there. ENGINE_DIR names another folder.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=${ENGINE_DIR:-$here/../../.cache/engine}

case "$(uname -s)-$(uname -m)" in
Linux-x86_64) package=@chdb/lib-linux-x64-gnu ;;
*)
  echo "engine: no library is published for $(uname -s) $(uname -m); put a clickhouse binary on PATH or use a ClickHouse server" >&2
  exit 1
  ;;
esac
library=$dir/node_modules/$package/libchdb.so

if [ -s "$library" ] && cmp -s "$here/package-lock.json" "$dir/package-lock.json"; then
  echo "engine: $package is installed as pinned, nothing to do"
  exit 0
fi
command -v npm >/dev/null || { echo "engine: npm is missing; install Node.js 18 or newer, then run make engine again" >&2; exit 1; }

mkdir -p "$dir"
cp "$here/package.json" "$here/.npmrc" "$dir/"
# The lock is copied last: it marks the folder as complete.
rm -f "$dir/package-lock.json"
stage=$dir/stage
rm -rf "$stage"
mkdir -p "$stage"
cp "$here/package.json" "$here/package-lock.json" "$here/.npmrc" "$stage/"
echo "engine: npm ci of $package into $dir (about 570 MB unpacked)"
(cd "$stage" && npm ci --no-progress --loglevel=error)
[ -s "$stage/node_modules/$package/libchdb.so" ] || { echo "engine: npm installed no libchdb.so for this machine" >&2; exit 1; }
rm -rf "$dir/node_modules"
mv "$stage/node_modules" "$dir/node_modules"
rm -rf "$stage"
cp "$here/package-lock.json" "$dir/package-lock.json"
echo "engine: installed $library"
