#!/usr/bin/env bash
# build.sh [kafka] [clickhouse] [hub]: makes sure that there are images to test with, all three by default.
# Kafka and ClickHouse: the vendors' images if they are there or can be pulled, else images of our own, made from
# packages: Kafka's jars (deploy/kafka-test/install.sh) and the engine library (deploy/engine/install.sh).
# hub: the Dockerfile if its base images can be had, else what its lines say (how to build, as whom to run, what to run) done
# without it, in a file system of its own.
# The names go to .cache/images.env, as KAFKA_IMAGE=... lines. Ours are made again when what
# they are made from has changed, or with REBUILD=1; NO_PULL=1 does not try to pull.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=$root/.cache
kafka_vendor=${KAFKA_IMAGE:-apache/kafka:4.1.1}
clickhouse_vendor=${CLICKHOUSE_IMAGE:-clickhouse/clickhouse-server:26.7}
modules=java.base,java.logging,java.management,java.naming,java.security.jgss,java.security.sasl,java.sql,java.xml,java.net.http,java.desktop,jdk.unsupported,jdk.crypto.ec,jdk.management,jdk.zipfs

have() { docker image inspect "$1" >/dev/null 2>&1; }

# pull fails fast: a machine without a registry must not wait for one at each image.
reachable=yes
pull() {
  [ "${NO_PULL:-}" != 1 ] && [ "$reachable" = yes ] || return 1
  timeout "${PULL_TIMEOUT:-20}" docker pull -q "$1" >/dev/null 2>&1 && return 0
  reachable=no
  return 1
}

needs() { # command, package
  command -v "$1" >/dev/null && return
  echo "images: apt-get install $2"
  apt-get update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$2" >/dev/null
}

# base makes a file system of busybox and bash, with the libraries that they and the files named need.
base() {
  local r=$1 lib
  shift
  needs busybox busybox-static
  rm -rf "$r"
  mkdir -p "$r"/{bin,usr/bin,usr/sbin,etc,tmp,run,var/lib,lib,lib64,opt,root,proc,sys,dev}
  chmod 1777 "$r/tmp"
  cp "$(command -v busybox)" "$r/bin/busybox"
  cp /bin/bash "$r/bin/bash"
  for a in $(busybox --list); do [ -e "$r/bin/$a" ] || ln -s busybox "$r/bin/$a"; done
  printf 'root:x:0:0:root:/root:/bin/sh\nhub:x:65532:65532:hub:/tmp:/bin/sh\n' >"$r/etc/passwd"
  printf 'root:x:0:\nhub:x:65532:\n' >"$r/etc/group"
  echo 'hosts: files dns' >"$r/etc/nsswitch.conf"
  { ldd /bin/bash "$@" 2>/dev/null || true; } | awk '$2 == "=>" && $3 ~ /^\// {print $3} $1 ~ /^\/lib/ {print $1}' | sort -u | while read -r lib; do
    case $lib in
    */jre/*) ;;
    /lib64/* | /lib/ld-*) mkdir -p "$r$(dirname "$lib")" && cp -L "$lib" "$r$lib" ;;
    *) mkdir -p "$r/lib/$(uname -m)-linux-gnu" && cp -L "$lib" "$r/lib/$(uname -m)-linux-gnu/" ;;
    esac
  done
  # What is loaded at run time ldd does not show: the name service, and what the native libraries in jars need (without
  # libpthread Kafka answers each record for a topic with zstd, as dead letters have it, by an error of its own).
  for lib in libnss_files.so.2 libnss_dns.so.2 libresolv.so.2 libpthread.so.0 libdl.so.2 librt.so.1; do
    cp -L "/lib/$(uname -m)-linux-gnu/$lib" "$r/lib/$(uname -m)-linux-gnu/" 2>/dev/null || true
  done
}

# inputs is a checksum of what an image of ours is made from; current tells whether the image is of these inputs.
inputs() { (cd "$root" && find "$@" -type f ! -name '*_test.go' | sort | xargs sha256sum | sha256sum | cut -c1-16); }
current() { [ "${REBUILD:-}" != 1 ] && [ "$(docker image inspect -f '{{index .Config.Labels "welfarehub.inputs"}}' "$1" 2>/dev/null)" = "$2" ]; }

import() { # folder, image, changes...
  local r=$1 image=$2 changes=() c old
  shift 2
  old=$(docker image inspect -f '{{.Id}}' "$image" 2>/dev/null || true)
  for c in 'ENV PATH=/bin:/usr/bin:/usr/sbin:/opt/jre/bin' "$@"; do changes+=(-c "$c"); done
  tar -C "$r" --owner=0 --group=0 -c . | docker import "${changes[@]}" - "$image" >/dev/null
  if [ -n "$old" ]; then docker rmi "$old" >/dev/null 2>&1 || true; fi # a container may still have it
  rm -rf "$r"
}

kafka() {
  local image=welfarehub/kafka:test r=$cache/images/kafka key
  key=$(inputs deploy/kafka-test deploy/images/kafka deploy/images/build.sh)
  if have "$kafka_vendor" || pull "$kafka_vendor"; then
    image=$kafka_vendor
  elif ! current "$image" "$key"; then
    "$root/deploy/kafka-test/install.sh"
    needs jlink openjdk-17-jdk-headless
    local home jre=$cache/images/jre
    home=$(dirname "$(dirname "$(readlink -f "$(command -v jlink)")")")
    rm -rf "$jre"
    mkdir -p "$cache/images"
    echo "images: jlink and docker import of $image"
    "$home/bin/jlink" --module-path "$home/jmods" --add-modules "$modules" --strip-java-debug-attributes --no-header-files --no-man-pages --output "$jre"
    base "$r" "$jre/bin/java" "$jre/lib/server/libjvm.so"
    mv "$jre" "$r/opt/jre"
    mkdir -p "$r/opt/kafka" "$r/etc/kafka" "$r/var/lib/kafka"
    cp -r "$cache/kafka/lib" "$r/opt/kafka/lib"
    install -m 755 "$here/kafka/entrypoint.sh" "$r/entrypoint.sh"
    import "$r" "$image" "LABEL welfarehub.inputs=$key" 'ENTRYPOINT ["/entrypoint.sh"]' 'EXPOSE 9092'
  fi
  echo "KAFKA_IMAGE=$image" >>"$names"
  echo "images: kafka is $image"
}

clickhouse() {
  local image=welfarehub/clickhouse:test r=$cache/images/clickhouse lib key
  key=$(inputs deploy/engine deploy/images/clickhouse deploy/images/build.sh pkg/engine pkg/datadir go.sum)
  if have "$clickhouse_vendor" || pull "$clickhouse_vendor"; then
    image=$clickhouse_vendor
  elif ! current "$image" "$key"; then
    "$root/deploy/engine/install.sh"
    lib=$(find "$cache/engine/node_modules/@chdb" -name libchdb.so | head -1)
    mkdir -p "$cache/images"
    echo "images: go build and docker import of $image"
    (cd "$root" && CGO_ENABLED=0 go build -trimpath -o "$cache/images/launch" ./deploy/images/clickhouse)
    base "$r" "$lib" "$cache/images/launch"
    ln "$lib" "$r/lib/libchdb.so" 2>/dev/null || cp "$lib" "$r/lib/libchdb.so"
    mv "$cache/images/launch" "$r/bin/launch"
    mkdir -p "$r/var/lib/clickhouse"
    import "$r" "$image" "LABEL welfarehub.inputs=$key" 'ENTRYPOINT ["/bin/launch"]' 'EXPOSE 8123 9000'
  fi
  echo "CLICKHOUSE_IMAGE=$image" >>"$names"
  echo "images: clickhouse is $image"
}

hub() {
  local image=${HUB_IMAGE:-welfarehub/welfarehub:test} r=$cache/images/hub
  # shellcheck disable=SC2046 # one word for each base image
  set -- $(awk -F'[= ]' '$1 == "ARG" && $2 ~ /_IMAGE$/ {print $3}' "$root/Dockerfile")
  local all=yes b
  for b in "$@"; do have "$b" || pull "$b" || all=no; done
  if [ "$all" = yes ]; then
    docker build -q -t "$image" "$root" >/dev/null
  else
    echo "images: the Dockerfile's go build, and docker import of $image"
    local build changes
    # The Dockerfile has these words once; here they are taken from it, so that what is tested is what it says.
    build=$(sed -n 's|^RUN \(CGO_ENABLED=0 go build .*\)|\1|p' "$root/Dockerfile")
    mapfile -t changes < <(grep -E '^(USER|WORKDIR|ENTRYPOINT) ' "$root/Dockerfile")
    if [ -z "$build" ] || [ "${#changes[@]}" -lt 3 ]; then
      echo "images: Dockerfile has no RUN line with go build, or lacks USER, WORKDIR or ENTRYPOINT; adapt $0" >&2
      return 1
    fi
    base "$r"
    rm -rf "$r/lib" "$r/lib64" "$r/bin/bash" # the binary and busybox are static
    (cd "$root" && VERSION=test bash -c "${build//\/out\//${r#"$root"/}/bin/}")
    mkdir -p "$r/etc/ssl/certs"
    cp /etc/ssl/certs/ca-certificates.crt "$r/etc/ssl/certs/" 2>/dev/null || true # no test needs them
    import "$r" "$image" "${changes[@]}"
  fi
  echo "HUB_IMAGE=$image" >>"$names"
  echo "images: hub is $image"
}

mkdir -p "$cache"
names=$(mktemp "$cache/images.env.XXXXXX")
trap 'rm -f "$names"' EXIT
[ "$#" -gt 0 ] || set -- kafka clickhouse hub
for part in "$@"; do
  case $part in
  kafka | clickhouse | hub) "$part" ;;
  *)
    echo "usage: $0 [kafka] [clickhouse] [hub]" >&2
    exit 2
    ;;
  esac
done
# What was made earlier stays known.
if [ -f "$cache/images.env" ]; then
  grep -v -F -f <(cut -d= -f1 "$names" | sed 's/$/=/') "$cache/images.env" >>"$names" || true
fi
mv "$names" "$cache/images.env"
