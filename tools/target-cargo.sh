#!/usr/bin/env bash
# Runs cargo for another target, also from within a build: tools/target-cargo.sh TARGET COMMAND ...
#
#   tools/target-cargo.sh wasm32-unknown-unknown build --release --package llm
#
# Sets the target up first (target.sh, whose exit statuses 2 and 3 it passes on; those of cargo are 1
# and 101), adds --target, and removes what an outer cargo sets for its own target. Programs for
# aarch64 are linked statically, so that the emulator needs no system root.
set -euo pipefail
directory=$(dirname "$0")
target=${1:-}

for name in $(compgen -e); do
  case $name in
    CARGO_BUILD_* | CARGO_CFG_* | CARGO_FEATURE_* | CARGO_PROFILE_* | CARGO_ENCODED_RUSTFLAGS | CARGO_MAKEFLAGS | \
      CARGO_TARGET_DIR | MAKEFLAGS | RUSTC | RUSTC_WORKSPACE_WRAPPER | RUSTC_WRAPPER | RUSTDOC | RUSTFLAGS | RUSTUP_TOOLCHAIN)
      unset "$name"
      ;;
  esac
done

toolchain=$("$directory/target.sh" "$target")
command=${2:-}
[ -n "$command" ] || { echo "error: no cargo command" >&2; exit 2; }
shift 2

settings=()
if [ "$target" = aarch64-unknown-linux-gnu ]; then
  settings=(
    --config 'target.aarch64-unknown-linux-gnu.linker="aarch64-linux-gnu-gcc"'
    --config 'target.aarch64-unknown-linux-gnu.rustflags=["-C", "target-feature=+crt-static"]'
  )
fi
exec cargo $toolchain "$command" "${settings[@]}" --target "$target" "$@"
