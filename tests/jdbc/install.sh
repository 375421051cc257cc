#!/usr/bin/env bash
# Puts the jars of ClickHouse's JDBC driver into .cache/jdbc/lib of the project, in the version that pom.xml pins and
# with the checksums of jars.sha256. Running it again does nothing when they are there. JDBC_DIR names another folder.
# To move to another version: change pom.xml, run `tests/jdbc/install.sh --pin`, and look at what changed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=${JDBC_DIR:-$here/../../.cache/jdbc}

if [ "${1:-}" != --pin ] && [ -d "$dir/lib" ] && cmp -s "$here/jars.sha256" "$dir/jars.sha256"; then
  echo "jdbc: the jars are there as pinned, nothing to do"
  exit 0
fi
command -v mvn >/dev/null || { echo "jdbc: mvn is missing; install Maven and a JDK 17 or newer" >&2; exit 1; }
mkdir -p "$dir"
stage=$(cd "$dir" && pwd)/stage
rm -rf "$stage" "$dir/jars.sha256"
echo "jdbc: mvn dependency:copy-dependencies into $dir/lib (about 12 MB)"
mvn -B -q -f "$here/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$stage"
if [ "${1:-}" = --pin ]; then
  (cd "$stage" && LC_ALL=C sha256sum *.jar) >"$here/jars.sha256"
fi
(cd "$stage" && sha256sum --quiet --check "$here/jars.sha256") || { echo "jdbc: the jars are not those of tests/jdbc/jars.sha256" >&2; exit 1; }
[ "$(ls "$stage" | wc -l)" = "$(wc -l <"$here/jars.sha256")" ] || { echo "jdbc: there are jars that tests/jdbc/jars.sha256 does not name" >&2; exit 1; }
rm -rf "$dir/lib"
mv "$stage" "$dir/lib"
cp "$here/jars.sha256" "$dir/jars.sha256" # last: it marks the folder as complete
echo "jdbc: $(ls "$dir/lib" | wc -l) jars in $dir/lib"
