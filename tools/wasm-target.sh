#!/usr/bin/env bash
# Sees to it that Rust can build for wasm32-unknown-unknown.
#
# Prints the cargo argument that selects the toolchain: nothing when the active one will do, or
# "+lockstep-wasm". Everything else goes to stderr. Use:
#
#   toolchain=$(tools/wasm-target.sh)
#   cargo $toolchain build --release --target wasm32-unknown-unknown
#
# Ways, in this order: the active toolchain has the target; rustup can add it; on Debian, the
# distribution's compiler for the web is unpacked into a folder of its own, its standard library
# built for the target, and the result linked into rustup as `lockstep-wasm`. A repeated call only
# looks whether the result of an earlier one is there.
#
# LOCKSTEP_WASM_TOOLCHAIN_DIR overrides where that folder is.
set -euo pipefail

TARGET=wasm32-unknown-unknown
NAME=lockstep-wasm
DIRECTORY=${LOCKSTEP_WASM_TOOLCHAIN_DIR:-${XDG_DATA_HOME:-$HOME/.local/share}/lockstep/wasm-toolchain}
LINK=${RUSTUP_HOME:-$HOME/.rustup}/toolchains/$NAME

say() { echo "wasm-target: $*" >&2; }

fail() {
  echo "error: $1" >&2
  echo "hint: $2" >&2
  exit 1
}

# Whether a folder of libraries holds a standard library.
has_std() { compgen -G "$1/libstd-*.rlib" >/dev/null; }

active_has_target() {
  local libraries
  libraries=$(rustc --print target-libdir --target $TARGET 2>/dev/null) && has_std "$libraries"
}

linked_has_target() { has_std "$LINK/lib/rustlib/$TARGET/lib"; }

# ---- Debian's compiler ----

# The packages of the compiler: its driver, host library, library sources and LLVM, one version.
compiler_packages() {
  local version library
  version=$(apt-cache policy rustc-web | awk '/Candidate:/ { print $2 }')
  library=libstd-rust-web-$(cut -d. -f1,2 <<<"$version")
  echo rustc-web libstd-rust-web-dev rust-web-src "$library"
  apt-cache depends "$library" | awk '/Depends: libllvm/ { print $2 }'
}

unpack_compiler() { # into folder $1
  local packages=$1/packages root=$1/usr library
  mkdir "$packages"
  # shellcheck disable=SC2046  # a list of words
  (cd "$packages" && apt-get download -qq $(compiler_packages) >&2) || return 1
  for package in "$packages"/*.deb; do
    case $package in
      *rust-web-src_*) dpkg --fsys-tarfile "$package" | tar -x -C "$1" --wildcards './usr/src/rustc-*/library' './usr/lib/rustlib/src' ;;
      *) dpkg -x "$package" "$1" ;;
    esac
  done
  # rustup looks for shared libraries in lib itself.
  for library in "$root"/lib/*-linux-gnu*; do
    mv "$library"/* "$root/lib/" && rmdir "$library"
  done
  rm -rf "$packages" "${root:?}/share" "$root/libexec"
}

# The compiler borrows cargo and the linker from the active toolchain, and finds its own libraries.
complete_toolchain() { # in folder $1
  local root=$1/usr host borrowed
  host=$(rustc -vV | awk '/^host:/ { print $2 }')
  borrowed=$(rustc --print sysroot)
  [ -x "$borrowed/lib/rustlib/$host/bin/rust-lld" ] || fail "the active toolchain has no rust-lld" "rustup default stable"
  mkdir -p "$root/lib/rustlib/$host/bin"
  ln -s "$borrowed/lib/rustlib/$host/bin/rust-lld" "$borrowed/lib/rustlib/$host/bin/gcc-ld" "$root/lib/rustlib/$host/bin/"
  ln -s "$borrowed/bin/cargo" "$root/bin/cargo"
  mv "$root/bin/rustc" "$root/bin/rustc.bin"
  cat >"$root/bin/rustc" <<'WRAPPER'
#!/bin/sh
root=$(dirname "$(readlink -f "$0")")/..
LD_LIBRARY_PATH=$root/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec "$root/bin/rustc.bin" "$@"
WRAPPER
  chmod +x "$root/bin/rustc"
}

# Builds std from the compiler's own sources, whose dependencies come with them.
build_std() { # in folder $1
  local root=$1/usr build=$1/std sources libraries
  sources=$(readlink -f "$root/lib/rustlib/src/rust/library")
  libraries=$root/lib/rustlib/$TARGET/lib
  mkdir -p "$build/src" "$libraries"
  printf '[package]\nname = "empty"\nedition = "2021"\n[workspace]\n' >"$build/Cargo.toml"
  : >"$build/src/lib.rs"
  # Bitcode is what link-time optimisation of canisters needs; the other variables shut out the
  # settings of a surrounding build.
  (cd "$build" && env -u CARGO_ENCODED_RUSTFLAGS -u CARGO_BUILD_TARGET -u CARGO_BUILD_RUSTFLAGS -u RUSTC_WRAPPER -u RUSTUP_TOOLCHAIN \
    RUSTC="$root/bin/rustc" RUSTFLAGS=-Cembed-bitcode=yes RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR="$build/target" \
    "$root/bin/cargo" build --quiet --release --offline --target $TARGET -Z build-std=std,panic_abort \
    --config 'source.crates-io.replace-with="vendored"' --config "source.vendored.directory=\"$sources/vendor\"" >&2)
  find "$build/target/$TARGET/release/deps" -name '*.rlib' ! -name 'libempty-*' -exec cp {} "$libraries" \;
  rm -rf "$build"
}

install_debian() {
  local partial=$DIRECTORY.partial
  say "unpacking Debian's compiler into $DIRECTORY"
  rm -rf "$partial" && mkdir -p "$partial"
  if ! apt-cache show rustc-web >/dev/null 2>&1 || ! unpack_compiler "$partial"; then
    # No or old package lists.
    rm -rf "$partial" && mkdir -p "$partial"
    apt-get update -qq >&2 && unpack_compiler "$partial" || return 1
  fi
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
    binutils gcc libc6-dev libedit2 libffi8 libxml2 libz3-4 libzstd1 zlib1g >&2 || return 1
  complete_toolchain "$partial"
  say "building the standard library for $TARGET (about a minute)"
  build_std "$partial" || return 1
  # Complete or absent: an interrupted run leaves only the partial folder.
  rm -rf "$DIRECTORY" && mv "$partial" "$DIRECTORY"
}

set_up_linked() {
  mkdir -p "$(dirname "$DIRECTORY")"
  exec 9>"$DIRECTORY.lock"
  flock 9 # of two callers at once the second finds the work done
  has_std "$DIRECTORY/usr/lib/rustlib/$TARGET/lib" || install_debian || return 1
  rustup toolchain link $NAME "$DIRECTORY/usr" >&2
}

# ---- choose a way ----

if active_has_target; then
  exit 0
elif linked_has_target; then
  echo "+$NAME"
  exit 0
fi

command -v rustup >/dev/null || fail "the active Rust toolchain cannot build for $TARGET" \
  "install Rust with rustup, or your distribution's standard library for wasm32"

say "adding $TARGET to the active toolchain"
if rustup target add $TARGET >&2 && active_has_target; then
  exit 0
fi
say "rustup could not add it; trying Debian's packages"
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] && set_up_linked && linked_has_target; then
  echo "+$NAME"
  exit 0
fi
fail "no Rust toolchain that builds for $TARGET, and none could be set up" \
  "run: rustup target add $TARGET (it needs a network); the fallback needs root on Debian 12 with its package sources"
