#!/usr/bin/env bash
# Sees to it that there are Node.js, npm and Chromium, with which the console is tested, and prints the path of
# Chromium.
#
# What is missing is installed from Debian's packages. Everything else goes to stderr.
#
# Exit status: 0 ready; 3 something is missing and cannot be installed on this machine, with the reason on stderr.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

NODE_MAJOR_MIN=20

fail() { # message $1, hint $2
  echo "error: $1" >&2
  echo "hint: $2" >&2
  exit 3
}

has_node() {
  command -v npm >/dev/null && command -v node >/dev/null &&
    [ "$(node --print 'process.versions.node.split(".")[0]')" -ge $NODE_MAJOR_MIN ]
}

find_chromium() { command -v chromium || command -v chromium-browser || command -v google-chrome; }

install_packages() {
  command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] || return 1
  echo "browser: installing $*" >&2
  apt-get install -qq -y --no-install-recommends "$@" >&2 ||
    { apt-get update -qq >&2 && apt-get install -qq -y --no-install-recommends "$@" >&2; }
}

has_node || install_packages nodejs npm || true
has_node || fail "there is no Node.js $NODE_MAJOR_MIN or newer with npm" "install it"
find_chromium >/dev/null || install_packages chromium || true
find_chromium || fail "there is no Chromium" "install it (Debian: apt install chromium)"
