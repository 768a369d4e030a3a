#!/usr/bin/env bash
# Runs numeric under Miri, which checks its unsafe code (pool, packed layouts, kernels that share an output)
# for undefined behaviour and data races. On the portable kernels: the interpreter lacks most vector
# instructions. The tests left out touch no unsafe code, and the interpreter needs hours for some of them.
#
# Miri comes with nightly Rust: rustup toolchain install nightly --component miri --component rust-src
set -euo pipefail
cd "$(dirname "$0")/.."

if ! reason=$(cargo +nightly miri --version 2>&1); then
  echo "SKIPPED: Miri is not installed: $(head -n 1 <<<"$reason")"
  exit 0
fi
export LOCKSTEP_ISA=portable
miri() {
  cargo +nightly miri test --locked --package lockstep-numeric "$@"
}
miri --lib -- arch:: isa:: pool:: rope::
miri --test threads
