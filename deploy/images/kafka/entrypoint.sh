#!/bin/bash
# Entry point of welfarehub/kafka:test. As in Apache's image, KAFKA_FOO_BAR=x becomes the setting foo.bar=x, and the
# storage is formatted at the first start. Heap: KAFKA_HEAP_OPTS.
set -euo pipefail
data=${KAFKA_LOG_DIRS:-/var/lib/kafka/data}
conf=/etc/kafka/server.properties
{
  echo "log.dirs=$data"
  while IFS='=' read -r -d '' name value; do
    case $name in
    KAFKA_LOG_DIRS | KAFKA_HEAP_OPTS | KAFKA_JVM*) ;;
    KAFKA_*)
      name=${name#KAFKA_}
      name=${name,,}
      echo "${name//_/.}=$value"
      ;;
    esac
  done </proc/self/environ
} >"$conf"
java=(/opt/jre/bin/java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Dorg.slf4j.simpleLogger.defaultLogLevel=info -cp '/opt/kafka/lib/*')
if [ ! -e "$data/meta.properties" ]; then
  "${java[@]}" kafka.tools.StorageTool format --ignore-formatted -t "${CLUSTER_ID:-4L6g3nShT-eMCtK--X86sw}" -c "$conf"
fi
# shellcheck disable=SC2086 # several options in one variable, as in Apache's image
exec "${java[@]:0:1}" ${KAFKA_HEAP_OPTS:--Xmx512m} "${java[@]:1}" kafka.Kafka "$conf"
