#!/usr/bin/env bash
# Sees to it that Rust can build for another target, and that its programs can run here.
#
# Prints the cargo argument that selects the toolchain: nothing when the active one will do, or
# "+lockstep-cross". Everything else goes to stderr. Use:
#
#   toolchain=$(tools/target.sh wasm32-unknown-unknown)
#   cargo $toolchain build --release --target wasm32-unknown-unknown
#
# Targets: wasm32-unknown-unknown, and aarch64-unknown-linux-gnu with aarch64-linux-gnu-gcc as its
# linker and qemu-aarch64 (or qemu-aarch64-static) as its emulator.
#
# Ways, in this order: the active toolchain has the target; rustup can add it; on Debian, the
# distribution's compiler for the web is unpacked into a folder of its own, its standard library
# built for the target, and the result linked into rustup as `lockstep-cross`. Linker and emulator
# are Debian packages. A repeated call only looks whether the result of an earlier one is there.
#
# Exit status: 0 ready; 2 wrong use; 3 what is missing cannot be set up on this machine, with the
# reason on stderr.
#
# LOCKSTEP_TOOLCHAIN_DIR overrides where that folder is.
set -euo pipefail

NAME=lockstep-cross
DIRECTORY=${LOCKSTEP_TOOLCHAIN_DIR:-${XDG_DATA_HOME:-$HOME/.local/share}/lockstep/toolchain}
LINK=${RUSTUP_HOME:-$HOME/.rustup}/toolchains/$NAME
export DEBIAN_FRONTEND=noninteractive

say() { echo "target: $*" >&2; }

fail() { # message $1, hint $2, exit status $3
  echo "error: $1" >&2
  echo "hint: $2" >&2
  exit "$3"
}

TARGET=${1:-}
case $TARGET in
  wasm32-unknown-unknown) PARTS=std,panic_abort ;;
  aarch64-unknown-linux-gnu) PARTS=std,panic_abort,panic_unwind,test ;;
  *) fail "no such target: ${TARGET:-(none)}" "wasm32-unknown-unknown or aarch64-unknown-linux-gnu" 2 ;;
esac

# Whether packages can be installed.
has_apt() { command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; }

install_packages() {
  apt-get install -qq -y --no-install-recommends "$@" >&2 ||
    { apt-get update -qq >&2 && apt-get install -qq -y --no-install-recommends "$@" >&2; }
}

# Whether a folder of libraries holds a standard library.
has_std() { compgen -G "$1/libstd-*.rlib" >/dev/null; }

active_has_target() {
  local libraries
  libraries=$(rustc --print target-libdir --target "$TARGET" 2>/dev/null) && has_std "$libraries"
}

linked_has_target() { has_std "$LINK/lib/rustlib/$TARGET/lib"; }

# Of two callers at once the second finds the work done.
lock() {
  mkdir -p "$(dirname "$DIRECTORY")"
  exec 9>"$DIRECTORY.lock"
  flock 9
}

# ---- linker and emulator ----

has_tools() {
  [ "$TARGET" = aarch64-unknown-linux-gnu ] || return 0
  command -v aarch64-linux-gnu-gcc >/dev/null || return 1
  # The compiler answers with a path only if it finds the file.
  [ -e "$(aarch64-linux-gnu-gcc -print-file-name=libc.a)" ] || return 1
  command -v qemu-aarch64 >/dev/null || command -v qemu-aarch64-static >/dev/null
}

set_up_tools() {
  lock
  has_tools && return
  say "installing a linker and an emulator for $TARGET"
  has_apt && install_packages gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user && has_tools
}

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
  [ -x "$borrowed/lib/rustlib/$host/bin/rust-lld" ] || fail "the active toolchain has no rust-lld" "rustup default stable" 3
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

install_compiler() {
  local partial=$DIRECTORY.partial
  say "unpacking Debian's compiler into $DIRECTORY"
  rm -rf "$partial" && mkdir -p "$partial"
  if ! apt-cache show rustc-web >/dev/null 2>&1 || ! unpack_compiler "$partial"; then
    # No or old package lists.
    rm -rf "$partial" && mkdir -p "$partial"
    apt-get update -qq >&2 && unpack_compiler "$partial" || return 1
  fi
  install_packages binutils gcc libc6-dev libedit2 libffi8 libxml2 libz3-4 libzstd1 zlib1g || return 1
  complete_toolchain "$partial"
  # Complete or absent: an interrupted run leaves only the partial folder.
  rm -rf "$DIRECTORY" && mv "$partial" "$DIRECTORY"
}

# Builds std from the compiler's own sources, whose dependencies come with them.
build_std() {
  local root=$DIRECTORY/usr build=$DIRECTORY/std-$TARGET sources libraries
  say "building the standard library for $TARGET (about a minute)"
  sources=$(readlink -f "$root/lib/rustlib/src/rust/library")
  libraries=$root/lib/rustlib/$TARGET/lib
  rm -rf "$build" "$libraries" && mkdir -p "$build/src" "$build/libraries" "$(dirname "$libraries")"
  printf '[package]\nname = "empty"\nedition = "2021"\n[workspace]\n' >"$build/Cargo.toml"
  : >"$build/src/lib.rs"
  # Bitcode is what link-time optimisation of canisters needs; the other variables shut out the
  # settings of a surrounding build.
  (cd "$build" && env -u CARGO_ENCODED_RUSTFLAGS -u CARGO_BUILD_TARGET -u CARGO_BUILD_RUSTFLAGS -u RUSTC_WRAPPER -u RUSTUP_TOOLCHAIN \
    RUSTC="$root/bin/rustc" RUSTFLAGS=-Cembed-bitcode=yes RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR="$build/target" \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
    "$root/bin/cargo" build --quiet --release --offline --target "$TARGET" -Z build-std=$PARTS \
    --config 'source.crates-io.replace-with="vendored"' --config "source.vendored.directory=\"$sources/vendor\"" >&2) || return 1
  find "$build/target/$TARGET/release/deps" -name '*.rlib' ! -name 'libempty-*' -exec mv {} "$build/libraries" \;
  mv "$build/libraries" "$libraries"
  rm -rf "$build"
}

set_up_linked() {
  lock
  [ -x "$DIRECTORY/usr/bin/rustc" ] || install_compiler || return 1
  has_std "$DIRECTORY/usr/lib/rustlib/$TARGET/lib" || build_std || return 1
  rustup toolchain link $NAME "$DIRECTORY/usr" >&2
}

# ---- choose a way ----

has_tools || set_up_tools ||
  fail "no linker or no emulator for $TARGET" "as root on Debian: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user" 3

if active_has_target; then
  exit 0
elif linked_has_target; then
  echo "+$NAME"
  exit 0
fi

command -v rustup >/dev/null || fail "the active Rust toolchain cannot build for $TARGET" \
  "install Rust with rustup, or your distribution's standard library for $TARGET" 3

say "adding $TARGET to the active toolchain"
if rustup target add "$TARGET" >&2 && active_has_target; then
  exit 0
fi
say "rustup could not add it; trying Debian's packages"
if has_apt && set_up_linked && linked_has_target; then
  echo "+$NAME"
  exit 0
fi
fail "no Rust toolchain that builds for $TARGET, and none could be set up" \
  "run: rustup target add $TARGET (it needs a network); the fallback needs root on Debian 12 with its package sources" 3
