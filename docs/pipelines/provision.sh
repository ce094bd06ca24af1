#!/bin/sh
# The last step of a provisioning pipeline: a fresh server becomes a host whose agents run, are backed up, and stay so.
#
#   provision.sh HOST [LOST-HOST]
#
# HOST is a name in $INVENTORY. With LOST-HOST its agents are restored there, with grants made here; if that is HOST itself, the new server
# goes on with the old one's repository. Policies of hosts, with `target` and with an identity or `identity_command`, are in $POLICIES. Every
# step can be done again, so the answer to any failure is to run this again.
set -eu

here=$(dirname "$0")
host=$1
lost=${2:-}
inventory=${INVENTORY:-inventory.yml}
policies=${POLICIES:-/etc/trinity-snap/hosts}

play() { ansible-playbook "$@" -i "$inventory" --limit "$host"; }

key=
if [ "$lost" = "$host" ]; then
  # In memory only, and gone at the end.
  private=$(mktemp -d -p "${XDG_RUNTIME_DIR:-/dev/shm}")
  trap 'rm -rf "$private"' EXIT
  trap 'exit 1' HUP INT TERM
  key=$private/host.key
  trinity-snap key host-key "$key" --policy "$policies/$host.yml"
fi

play "$here/ready.yml" -e "host_key_file=$key"
play trinity.snap.install

if [ -n "$lost" ]; then
  trinity-snap fleet restore -i "$inventory" --limit "$host" --all --containers --grant --yes \
    -e "trinity_snap_restore_grant_policy=$policies/$lost.yml"
fi

# 12: done, with a weaker guarantee than the policy asks for, which the answer names.
trinity-snap fleet backup -i "$inventory" --limit "$host" || [ $? -eq 12 ]
play trinity.snap.schedule
trinity-snap fleet status -i "$inventory" --limit "$host" --max-age 1h
