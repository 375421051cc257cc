#!/usr/bin/env bash
# dockerd.sh start|stop|env: a Docker engine of our own, on a private socket, for machines where none runs.
# Everything is under .cache/docker of the project, or under $TMPDIR where that path is too long for a socket.
# start prints nothing but what it does; env prints the DOCKER_HOST to use.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
dir=${DOCKERD_DIR:-$root/.cache/docker}
run=$dir
# The kernel allows 107 characters for the path of a socket; containerd adds about 40 to ours.
if [ "${#run}" -gt 60 ]; then
  run=${TMPDIR:-/tmp}/welfarehub-docker-$(printf %s "$dir" | cksum | cut -d' ' -f1)
fi
socket=$run/docker.sock
pidfile=$run/dockerd.pid

alive() { [ -s "$pidfile" ] && [ "$(cat "/proc/$(cat "$pidfile")/comm" 2>/dev/null)" = dockerd ]; }
answers() { docker -H "unix://$socket" version >/dev/null 2>&1; }

case "${1:-}" in
env) echo "unix://$socket" ;;
start)
  if alive && answers; then
    echo "dockerd: runs on $socket"
    exit 0
  fi
  if ! command -v dockerd >/dev/null; then
    echo "dockerd: apt-get install docker.io"
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends docker.io >/dev/null
  fi
  mkdir -p "$dir/data" "$run"
  rm -f "$pidfile" "$socket" # a killed one leaves them behind
  setsid nohup dockerd --data-root "$dir/data" --exec-root "$run/exec" --pidfile "$pidfile" -H "unix://$socket" >"$dir/dockerd.log" 2>&1 </dev/null &
  child=$!
  for _ in $(seq 100); do
    if answers; then
      echo "dockerd: started on $socket"
      exit 0
    fi
    kill -0 "$child" 2>/dev/null || break
    sleep 0.1
  done
  echo "dockerd: it did not start; the last lines of $dir/dockerd.log:" >&2
  tail -5 "$dir/dockerd.log" >&2
  exit 1
  ;;
stop)
  if ! alive; then
    echo "dockerd: does not run"
    exit 0
  fi
  pid=$(cat "$pidfile")
  kill "$pid"
  for _ in $(seq 150); do
    if [ ! -d "/proc/$pid" ]; then
      echo "dockerd: stopped"
      exit 0
    fi
    sleep 0.1
  done
  kill -9 "$pid"
  rm -f "$pidfile"
  echo "dockerd: killed, it did not stop in 15 s"
  ;;
*)
  echo "usage: $0 start|stop|env" >&2
  exit 2
  ;;
esac
