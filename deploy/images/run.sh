#!/usr/bin/env bash
# run.sh COMMAND...: runs it with a Docker engine and the test images at hand, for tests on containers.
# A Docker engine that runs already is used and left alone; else one of our own is started and stopped.
# IMAGES="kafka clickhouse" names the images that are needed (see build.sh), all three by default.
# Where Docker has no compose of its own, Debian's is installed: the file is meant to be read by that too.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)

if [ -z "${DOCKER_HOST:-}" ] && ! docker info >/dev/null 2>&1; then
  DOCKER_HOST=$("$here/dockerd.sh" env)
  export DOCKER_HOST
  docker version >/dev/null 2>&1 || own=yes # else another run has started it, and will stop it
  "$here/dockerd.sh" start
fi

# A test that is killed cannot take down what it brought up; by this name we can.
export COMPOSE_PROJECT_NAME=welfarehub-test-$$
project=label=com.docker.compose.project=$COMPOSE_PROJECT_NAME
before=$(docker ps -aq --filter label=org.testcontainers=true) # somebody else's

finish() {
  code=$?
  # Without Ryuk nobody else clears up after a test that was killed.
  docker ps -aq --filter label=org.testcontainers=true | { grep -vxF "$before" || true; } | xargs -r docker rm -fv >/dev/null || true
  docker network prune -f --filter label=org.testcontainers=true >/dev/null || true
  docker ps -aq --filter "$project" | xargs -r docker rm -fv >/dev/null || true
  docker volume ls -q --filter "$project" | xargs -r docker volume rm >/dev/null || true
  docker network ls -q --filter "$project" | xargs -r docker network rm >/dev/null || true
  if [ "${own:-}" = yes ] && [ "${KEEP_DOCKERD:-}" != 1 ]; then "$here/dockerd.sh" stop; fi
  exit "$code"
}
trap finish EXIT

# shellcheck disable=SC2086 # one word for each image
"$here/build.sh" ${IMAGES:-kafka clickhouse hub}
if ! docker compose version >/dev/null 2>&1 && ! command -v docker-compose >/dev/null; then
  echo "run: apt-get install docker-compose"
  apt-get update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends docker-compose >/dev/null
fi
set -a
# shellcheck disable=SC1091 # made by build.sh
. "$root/.cache/images.env"
set +a
# Ryuk's image cannot be pulled everywhere; and published ports are on this machine's loopback.
export TESTCONTAINERS_RYUK_DISABLED=true TESTCONTAINERS_HOST_OVERRIDE=127.0.0.1
export WELFAREHUB_KAFKA=container WELFAREHUB_CLICKHOUSE=container WELFAREHUB_E2E=${WELFAREHUB_E2E:-1}
"$@"
