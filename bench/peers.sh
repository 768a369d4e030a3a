#!/usr/bin/env bash
# Builds llama.cpp, through its Python package, into two virtual environments:
#   native  for this processor
#   avx2    AVX2, FMA, F16C and BMI2, no AVX-512 (x86-64 only)
# usage: bench/peers.sh [native] [avx2]     both when none is named
# They lie in ${XDG_CACHE_HOME:-$HOME/.cache}/lockstep-bench. One that is there and reports the right
# instruction sets is kept. A build takes 4 to 8 minutes; BENCH_JOBS (default 2) sets its parallelism.
set -euo pipefail

readonly VERSION=0.3.36
readonly CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/lockstep-bench

# Fails unless the library in environment $1 was compiled for what its name says.
verify() {
    local info
    info=$("$CACHE/$1/bin/python" - 2>/dev/null <<'PYTHON'
import llama_cpp
print(llama_cpp.__version__, llama_cpp.llama_print_system_info().decode())
PYTHON
    ) || { echo "$1: the library does not load"; return 1; }
    echo "$1: $info"
    [[ $info == "$VERSION "* ]] || { echo "$1: not version $VERSION"; return 1; }
    local avx512=no wanted=no
    [[ $info == *"AVX512 = 1"* ]] && avx512=yes
    case $1 in
        native) grep -qsw avx512f /proc/cpuinfo && wanted=yes ;;
        avx2)
            for feature in AVX2 FMA F16C BMI2; do
                [[ $info == *"| $feature = 1"* ]] || { echo "$1: built without $feature"; return 1; }
            done
            ;;
    esac
    [[ $avx512 == "$wanted" ]] || { echo "$1: AVX-512 is $avx512, wanted $wanted"; return 1; }
}

build() {
    local name=$1
    shift
    if [[ -d $CACHE/$name ]] && verify "$name"; then
        return
    fi
    rm -rf "${CACHE:?}/$name"
    python3 -m venv "$CACHE/$name"
    # pip keeps wheels it compiled and does not ask how: without --no-cache-dir the second environment
    # gets the first one's library.
    CMAKE_ARGS="-DLLAVA_BUILD=OFF $*" CMAKE_BUILD_PARALLEL_LEVEL=${BENCH_JOBS:-2} \
        nice "$CACHE/$name/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
        --no-binary llama-cpp-python "llama-cpp-python==$VERSION" numpy
    verify "$name" || { echo "error: the build of $name is not what it should be" >&2; exit 1; }
}

mkdir -p "$CACHE"
if (($# == 0)); then
    set -- native avx2
fi
for name in "$@"; do
    case $name in
        native) build native -DGGML_NATIVE=ON ;;
        avx2)
            if [[ $(uname -m) != x86_64 ]]; then
                echo "avx2: skipped, this is no x86-64 processor"
                continue
            fi
            build avx2 -DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON \
                -DGGML_BMI2=ON -DGGML_AVX512=OFF
            ;;
        *)
            echo "error: unknown environment, expected native or avx2: $name" >&2
            exit 1
            ;;
    esac
done
