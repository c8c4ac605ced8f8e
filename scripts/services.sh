#!/usr/bin/env bash
# PostgreSQL and Redis for the tests: throw-away instances on loopback, on free ports, in a temporary folder.
#
#   scripts/services.sh start [FILE]   start both, unless they run; write `export` lines to FILE and print them
#   scripts/services.sh stop [FILE]    stop them and delete their folder
#
# FILE (default: build/services.env) remembers what runs. What is not installed is installed from the system's
# packages if that is possible (root, apt-get); what is missing then is said, and left out of FILE. Instances that
# the system runs are neither used nor touched: packages are installed without being started.
set -euo pipefail
umask 077
cd "$(dirname "$0")/.."

mode="${1:-start}"
file="${2:-build/services.env}"
PYTHON="${PYTHON:-python3}"
AZEOTROPE_SERVICES_FOLDER="" AZEOTROPE_TEST_POSTGRES="" AZEOTROPE_TEST_REDIS=""

say() { printf 'services: %s\n' "$*" >&2; }

postgres_bin() { # the folder of the server: on the path, or where the system's package manager put the newest
  local found
  found="$(command -v initdb || true)"
  if [ -z "$found" ] && command -v dpkg-query >/dev/null; then
    found="$(dpkg-query -W -f '${Package}\n' 'postgresql-[0-9]*' 2>/dev/null | sort -rV |
      xargs -r dpkg-query -L 2>/dev/null | grep '/bin/initdb$' | head -n 1)" || true
  fi
  [ -z "$found" ] || [ ! -x "$(dirname "$found")/postgres" ] || dirname "$found"
}

redis_bin() { command -v redis-server || command -v valkey-server || true; }

install_missing() {
  local packages=()
  [ -n "$(postgres_bin)" ] || packages+=(postgresql)
  [ -n "$(redis_bin)" ] || packages+=(redis-server)
  [ "${#packages[@]}" -gt 0 ] || return 0
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    say "not installed, and cannot be installed here (needs root and apt-get): ${packages[*]}"
    return 0
  fi
  local guard=/usr/sbin/policy-rc.d made=""
  if [ ! -e "$guard" ]; then # the packages must not start servers of their own
    printf '#!/bin/sh\nexit 101\n' >"$guard" && chmod 755 "$guard" && made=1
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT # also if this is interrupted
  fi
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    "${packages[@]}"; } </dev/null >&2 || say "could not install: ${packages[*]}"
  [ -z "$made" ] || { rm -f "$guard" && trap - EXIT; }
}

# PostgreSQL refuses to run as root: run it as somebody else then.
server_user() {
  if [ "$(id -u)" -ne 0 ]; then id -un; return; fi
  for name in postgres azeotrope-test; do
    if id "$name" >/dev/null 2>&1; then echo "$name"; return; fi
  done
  useradd --system --no-create-home --shell /usr/sbin/nologin azeotrope-test >&2 && echo azeotrope-test
}

as_user() { # user, command...
  local user="$1"
  shift
  if [ "$user" = "$(id -un)" ]; then "$@"; else runuser -u "$user" -- "$@"; fi
}

free_port() { "$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

password() { "$PYTHON" -c 'import secrets; print(secrets.token_hex(16))'; }

answers() { # port, what to send, what must come back
  [ -n "$1" ] && "$PYTHON" - "$@" 2>/dev/null <<'PY'
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 2) as s:
    s.sendall(sys.argv[2].encode().decode("unicode_escape").encode("latin-1"))
    sys.exit(not s.recv(64).startswith(sys.argv[3].encode()))
PY
}

# An SSL request is answered by one letter, without logging in; a PING without a password by an error.
postgres_answers() { answers "$1" '\x00\x00\x00\x08\x04\xd2\x16\x2f' N || answers "$1" '\x00\x00\x00\x08\x04\xd2\x16\x2f' S; }
redis_answers() { answers "$1" 'PING\r\n' '-NOAUTH'; }

port_of() { # the port in a URL, none for an empty one
  "$PYTHON" -c 'import sys, urllib.parse as p; print((p.urlsplit(sys.argv[1]).port or "") if sys.argv[1] else "")' "$1"
}

start_postgres() {
  local bin data user secret port
  bin="$(postgres_bin)"
  [ -n "$bin" ] || return 1
  user="$(server_user)"
  data="$folder/postgres"
  secret="$(password)"
  mkdir "$data"
  printf '%s\n' "$secret" >"$data/password"
  [ "$user" = "$(id -un)" ] || chown -R "$user" "$data"
  (cd / && as_user "$user" "$bin/initdb" --pgdata="$data/db" --username=azeotrope --pwfile="$data/password" \
    --auth=scram-sha-256 --encoding=UTF8 --locale=C --no-sync) >"$folder/initdb.log" 2>&1 || return 1
  for _ in 1 2 3 4 5; do # somebody else may take the port first
    port="$(free_port)"
    if (cd / && as_user "$user" "$bin/pg_ctl" start --silent --wait --timeout=60 --pgdata="$data/db" \
      --log="$data/log" --options="-c port=$port -c listen_addresses=127.0.0.1 \
      -c unix_socket_directories= -c fsync=off -c shared_buffers=32MB -c max_connections=100") \
      >"$folder/pg_ctl.log" 2>&1; then
      AZEOTROPE_TEST_POSTGRES="postgresql://azeotrope:$secret@127.0.0.1:$port/postgres"
      return 0
    fi
  done
  return 1
}

start_redis() {
  local bin secret port
  bin="$(redis_bin)"
  [ -n "$bin" ] || return 1
  secret="$(password)"
  mkdir -p "$folder/redis"
  for _ in 1 2 3 4 5; do
    port="$(free_port)"
    printf '%s\n' "port $port" "bind 127.0.0.1" "requirepass $secret" "dir $folder/redis" 'save ""' \
      "appendonly no" "daemonize yes" "pidfile $folder/redis/pid" "logfile $folder/redis/log" >"$folder/redis/conf"
    "$bin" "$folder/redis/conf" >/dev/null
    for _ in $(seq 50); do
      if redis_answers "$port"; then
        AZEOTROPE_TEST_REDIS="redis://:$secret@127.0.0.1:$port/0"
        return 0
      fi
      sleep 0.1
    done
  done
  return 1
}

read_file() {
  if [ -f "$file" ]; then
    # shellcheck disable=SC1090
    . "$file"
  fi
}

stop() {
  read_file
  folder="$AZEOTROPE_SERVICES_FOLDER"
  if [ -n "$folder" ] && [ -f "$folder/.azeotrope-services" ]; then # ours, and nothing else is deleted
    if [ -f "$folder/redis/pid" ] && redis_answers "$(port_of "$AZEOTROPE_TEST_REDIS")"; then
      kill "$(cat "$folder/redis/pid")" 2>/dev/null || true
    fi
    if [ -f "$folder/postgres/db/postmaster.pid" ]; then
      (cd / && as_user "$(server_user)" "$(postgres_bin)/pg_ctl" stop --silent --mode=immediate \
        --pgdata="$folder/postgres/db") >&2 || true
    fi
    rm -rf "$folder"
  fi
  rm -f "$file"
}

start() {
  read_file
  if [ -n "$AZEOTROPE_TEST_POSTGRES" ] && postgres_answers "$(port_of "$AZEOTROPE_TEST_POSTGRES")" &&
    [ -n "$AZEOTROPE_TEST_REDIS" ] && redis_answers "$(port_of "$AZEOTROPE_TEST_REDIS")"; then
    cat "$file"
    return
  fi
  stop
  AZEOTROPE_TEST_POSTGRES="" AZEOTROPE_TEST_REDIS=""
  install_missing
  folder="$(mktemp -d "${TMPDIR:-/tmp}/azeotrope-services.XXXXXX")"
  touch "$folder/.azeotrope-services"
  chmod 711 "$folder" # the server's user must reach what is its own
  start_postgres || say "PostgreSQL does not run; its tests will be skipped."
  start_redis || say "Redis does not run; its tests will be skipped."
  mkdir -p "$(dirname "$file")"
  {
    echo "export AZEOTROPE_SERVICES_FOLDER='$folder'"
    [ -z "$AZEOTROPE_TEST_POSTGRES" ] || echo "export AZEOTROPE_TEST_POSTGRES='$AZEOTROPE_TEST_POSTGRES'"
    [ -z "$AZEOTROPE_TEST_REDIS" ] || echo "export AZEOTROPE_TEST_REDIS='$AZEOTROPE_TEST_REDIS'"
  } >"$file"
  cat "$file"
}

case "$mode" in
start) start ;;
stop) stop ;;
*)
  say "usage: scripts/services.sh start|stop [FILE]"
  exit 2
  ;;
esac
