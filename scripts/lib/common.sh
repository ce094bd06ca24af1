# shellcheck shell=bash
# What scripts/setup, scripts/test and scripts/demo share. Source it; it changes to the root of the checkout.

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
venv=$root/.venv
export DEBIAN_FRONTEND=noninteractive LC_ALL=${LC_ALL:-C.UTF-8} PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

need_root() { [ "$(id -u)" = 0 ] || die "this needs root: it makes filesystems, containers and snapshots."; }

# command:package pairs; what is there already is left alone.
install_missing() {
  local pair missing=()
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
  done
  has_venv /usr/bin/python3 || missing+=(python3 python3-venv)
  [ ${#missing[@]} = 0 ] && return
  command -v apt-get >/dev/null || die "please install: ${missing[*]}"
  say "Installing ${missing[*]}"
  hold_services
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  free_services
}

# command:package pairs that not every distribution has; what cannot be had is left out, and who needs it says so.
install_if_there() {
  local pair there=()
  command -v apt-cache >/dev/null || return 0
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null && continue
    apt-cache show "${pair#*:}" >/dev/null 2>&1 && there+=("$pair")
  done
  [ ${#there[@]} = 0 ] || install_missing "${there[@]}"
}

# A package that brings a daemon must not start it: tests and demo start their own.
hold_services() {
  [ -e /usr/sbin/policy-rc.d ] && return
  printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
  chmod 755 /usr/sbin/policy-rc.d
  services_held=yes
  trap free_services EXIT
}

free_services() {
  [ "${services_held:-}" = yes ] && rm -f /usr/sbin/policy-rc.d
  services_held=
  trap - EXIT
}

has_venv() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
  local candidate
  for candidate in ${TRINITY_SNAP_PYTHON:-python3.13 python3.12 python3.11 python3 /usr/bin/python3}; do
    if has_venv "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  die "there is no Python 3.11 or newer with the module venv (python3-venv on Debian)."
}

# The project with everything its checks need, in .venv. Quick when nothing changed.
make_venv() {
  local python wanted
  if [ -n "${TRINITY_SNAP_PYTHON:-}" ] || ! has_venv "$venv/bin/python"; then python=$(find_python); else python=$venv/bin/python; fi
  wanted=$(cat pyproject.toml <("$python" -c 'import sys; print(sys.base_prefix, sys.version)') | sha256sum)
  if [ "$(cat "$venv/stamp" 2>/dev/null)" != "$wanted" ]; then
    say "Installing trinity-snap and its tools into .venv"
    [ "$python" = "$venv/bin/python" ] || "$python" -m venv --clear "$venv"
    "$venv/bin/python" -m pip install --quiet --quiet --upgrade pip
    "$venv/bin/python" -m pip install --quiet --quiet --editable '.[ansible,test,lint]'
    printf '%s\n' "$wanted" >"$venv/stamp"
  fi
  link_collection
  export PATH=$venv/bin:$PATH VIRTUAL_ENV=$venv
}

# Ansible finds a collection only under ansible_collections/NAMESPACE/NAME; ansible.cfg points there.
link_collection() {
  local place=.ansible/collections/ansible_collections/trinity
  mkdir -p "$place"
  ln -sfn ../../../.. "$place/snap"
}
