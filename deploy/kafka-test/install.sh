#!/usr/bin/env bash
# Puts Apache Kafka's jars into .cache/kafka/lib of the project, in the version that pom.xml pins.
# Running it again does nothing when they are there. KAFKA_DIR names another folder.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=${KAFKA_DIR:-$here/../../.cache/kafka}

if [ -d "$dir/lib" ] && cmp -s "$here/pom.xml" "$dir/pom.xml"; then
  echo "kafka: the jars are there as pinned, nothing to do"
  exit 0
fi
command -v mvn >/dev/null || { echo "kafka: mvn is missing; install Maven and a JDK 17 or newer" >&2; exit 1; }
mkdir -p "$dir"
stage=$(cd "$dir" && pwd)/stage
rm -rf "$stage" "$dir/pom.xml"
echo "kafka: mvn dependency:copy-dependencies into $dir/lib (about 45 MB)"
mvn -B -q -f "$here/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$stage"
rm -rf "$dir/lib"
mv "$stage" "$dir/lib"
cp "$here/pom.xml" "$dir/pom.xml" # last: it marks the folder as complete
echo "kafka: $(ls "$dir/lib" | wc -l) jars in $dir/lib"
