#!/bin/bash
# The guided tour behind `make demo`: converge the shop, kill a container, watch it heal, apply again and see no change.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
holdfast() { "$top/.venv/bin/holdfast" "$@"; }
shop=$here/shop
port=${SHOP_PORT:-8088}
page=http://127.0.0.1:$port/

step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
fetch() { "$top/.venv/bin/python" -c 'import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode(), end="")' "$page"; }

up() {
  [ "$(id -u)" = 0 ] || { echo "cannot run the demo: containers need root (try: sudo make demo)" >&2; exit 1; }
  local began=$SECONDS
  step "The plan: what would change (holdfast plan -f manifests/examples/shop)"
  holdfast plan -f "$shop" || [ $? = 3 ]

  step "Apply, with an agent in the background that keeps it so (holdfast apply --agent -f ...)"
  holdfast apply --yes --agent --timeout 10m -f "$shop"

  step "Status (holdfast status shop)"
  holdfast status shop

  step "What depends on what (holdfast graph -f ...)"
  holdfast graph -f "$shop"

  step "The page, served by nginx, made by Python, counted in redis: $page"
  fetch
  fetch | grep Visit

  step "Kill one replica of the api from outside, as a crash would (kill -9 of its process)"
  local victim
  victim=$(pid_of_first_api)
  kill -9 "$victim"
  echo "killed process $victim"
  wait_for_another "$victim"
  holdfast status shop
  holdfast events shop --tail 5

  step "Apply again: nothing changes"
  holdfast apply --yes -f "$shop"

  step "Done in $((SECONDS - began)) s"
  cat <<END
Look further:
  .venv/bin/holdfast status --watch           how everything fares, again each second
  .venv/bin/holdfast logs -f shop/api         both replicas, merged by time
  .venv/bin/holdfast explain shop/api         why it is as it is
  .venv/bin/holdfast exec shop/redis -- bash  a shell in a container
  .venv/bin/holdfast history shop             what was applied
  edit $shop/api/app.py, then: .venv/bin/holdfast plan -f $shop
  browse $page
Remove everything again:  make demo-down
END
}

pid_of_first_api() {
  holdfast container ls --filter stack=shop --filter resource=api --json |
    "$top/.venv/bin/python" -c 'import json, sys; print(sorted(json.load(sys.stdin), key=lambda c: c["name"])[0]["pid"])'
}

# Healed: two replicas run, none of them as the killed process.
wait_for_another() {
  local deadline=$((SECONDS + 20)) began
  began=$(date +%s%N)
  while [ $SECONDS -lt $deadline ]; do
    if holdfast container ls --filter stack=shop --filter resource=api --json |
      "$top/.venv/bin/python" -c 'import json, sys
pids = [c["pid"] for c in json.load(sys.stdin)]
sys.exit(not (len(pids) == 2 and int(sys.argv[1]) not in pids))' "$1"; then
      echo "healed after $((($(date +%s%N) - began) / 1000000)) ms"
      return
    fi
    sleep 0.05
  done
  echo "the killed replica was not replaced within 20 s" >&2
  exit 1
}

down() {
  if ! holdfast status --quiet | grep -qx shop; then
    echo "no shop here"
  else
    holdfast destroy --yes --volumes shop
  fi
  local images
  images=$(holdfast image ls --json |
    "$top/.venv/bin/python" -c 'import json, sys
print(*(name for image in json.load(sys.stdin) if image["stack"] == "shop" for name in image["names"]))')
  # shellcheck disable=SC2086
  [ -z "$images" ] || holdfast image rm $images
  # The agent was started by the demo; it goes when no other stack needs it.
  local others
  others=$(holdfast status --json | "$top/.venv/bin/python" -c 'import json, sys
print(*(one["stack"] for one in json.load(sys.stdin) if one["stack"] != "shop" and one["resources"]))')
  if [ -n "$others" ]; then
    echo "the agent stays: it keeps $others"
  else
    holdfast agent --stop
  fi
  holdfast system prune --yes
}

case ${1:-} in
up | down) "$1" ;;
*) echo "usage: $0 up|down" >&2; exit 2 ;;
esac
