#!/usr/bin/env bash
# Runs numeric's unit tests under Miri, which checks its unsafe code (pool, packed layouts) for undefined
# behaviour and data races. On the portable kernels: the interpreter lacks most vector instructions.
#
# Miri comes with nightly Rust: rustup toolchain install nightly --component miri --component rust-src
set -euo pipefail
cd "$(dirname "$0")/.."

if ! reason=$(cargo +nightly miri --version 2>&1); then
  echo "SKIPPED: Miri is not installed: $(head -n 1 <<<"$reason")"
  exit 0
fi
export LOCKSTEP_ISA=portable
# The tests left out have no unsafe code and run for hours.
cargo +nightly miri test --locked --package lockstep-numeric --lib --test threads -- \
  --skip elementary:: --skip convert:: --skip selftest::
