#!/bin/sh
# Fuzzes the file readers for a bounded time each:  tests/fuzz/run.sh [SECONDS]
# Builds into $B/fuzz (default build/fuzz), starts from a few good files, prints how many inputs were tried,
# and fails if one of them crashed, leaked, hung, or broke a promise of ref/io/io.h.
set -eu
cd "$(dirname "$0")/../.."
seconds=${1:-60}
out=${B:-build}/fuzz
clang=${CLANG:-clang}
mkdir -p "$out"

# ---- Build ---------------------------------------------------------------------------------------
skip() {
    echo "SKIP fuzz: $1"
    exit 0
}
command -v "$clang" >"$out/probe.log" || skip "clang is not installed"
echo 'int LLVMFuzzerTestOneInput(const char *d, unsigned long n){return d && n > 1u << 30;}' >"$out/probe.c"
"$clang" -fsanitize=fuzzer,address,undefined "$out/probe.c" -o "$out/probe" >"$out/probe.log" 2>&1 ||
    skip "clang has no fuzzer runtime here ($out/probe.log)"

json_flags='' json_libs=''
if pkg-config --exists jansson 2>"$out/probe.log"; then
    json_flags="-DHAVE_JANSSON $(pkg-config --cflags jansson)"
    json_libs=$(pkg-config --libs jansson)
fi

build() { # target
    # shellcheck disable=SC2086 # the flags are lists of words
    "$clang" -std=c11 -g -O1 -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wstrict-prototypes \
        -D_POSIX_C_SOURCE=200809L $json_flags \
        -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
        "tests/fuzz/fuzz_$1.c" tests/fuzz/fuzz.c ref/softmax.c ref/e4m3.c ref/fast/gemm.c \
        $(for part in error file set staging sums sha256 json tensor npy safetensors safetensors_write; do echo "ref/io/$part.c"; done) \
        $(for part in config directory names weights; do echo "ref/checkpoint/$part.c"; done) \
        $json_libs -lm -o "$out/fuzz_$1"
}

# ---- Good files to start from --------------------------------------------------------------------
. tests/support/published.sh

npy_seed() { # version length-bytes dict data-bytes
    printf '\223NUMPY'
    little_endian "$1" 2
    little_endian "${#3}" "$2"
    printf '%s' "$3"
    head -c "$4" /dev/zero
}

seeds_npy() { # directory
    npy_seed 1 2 "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }" 24 >"$1/matrix"
    npy_seed 1 2 "{'descr': '<i4', 'fortran_order': False, 'shape': (5,), }" 20 >"$1/ints"
    npy_seed 2 4 "{'descr': '<f4', 'fortran_order': False, 'shape': (), }" 4 >"$1/scalar"
    npy_seed 3 4 "{'shape':(1,0,2),'fortran_order':True,'descr':'>f8'}" 0 >"$1/refused"
}

seeds_safetensors() { # directory
    t='"dtype":"F32","shape"' o='"data_offsets"'
    safetensors_seed '{}' 0 >"$1/empty"
    safetensors_seed "{\"a\":{$t:[2,3],$o:[0,24]}}  " 24 >"$1/matrix"
    safetensors_seed "{\"__metadata__\":{\"k\":\"v\"},\"b\":{$t:[],$o:[4,8]},\"a\":{$t:[1],$o:[0,4]}}" 8 >"$1/two"
    safetensors_seed "{\"a\":{$t:[0],$o:[0,0]},\"b\":{\"dtype\":\"BF16\",\"shape\":[1],$o:[0,2]}}" 2 >"$1/refused"
}

checkpoint_seed() { # config index: its three files in a row
    little_endian "${#1}" 2
    printf '%s' "$1"
    little_endian "${#2}" 2
    printf '%s' "$2"
    safetensors_seed "$m3_header" "$m3_bytes"
}

seeds_checkpoint() { # directory
    checkpoint_seed "$m3_flat" '' >"$1/alone"
    checkpoint_seed "$m3_nested" "$m3_index" >"$1/sharded"
}

# ---- Run -----------------------------------------------------------------------------------------
if [ -d /dev/shm ] && [ -w /dev/shm ]; then
    scratch=$(mktemp -d /dev/shm/msa-fuzz-XXXXXX)
else
    scratch=$(mktemp -d)
fi
trap 'rm -rf "$scratch"' EXIT

found=0
run() { # target word... (the words are offered to the mutator)
    target=$1 log=$out/$1.log
    shift
    printf '"%s"\n' "$@" >"$out/$target.dict"
    if TMPDIR=$scratch "$out/fuzz_$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 \
        -malloc_limit_mb=64 -max_len="${max_len:-4096}" -print_final_stats=1 -dict="$out/$target.dict" \
        -artifact_prefix="$out/$target-" "$out/corpus_$target" >"$log" 2>&1; then
        echo "ok fuzz $target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") executions" \
            "in $seconds s, $(find "$out/corpus_$target" -type f | wc -l) inputs kept, nothing found"
    else
        found=1
        echo "not ok fuzz $target: see $log and the input $out/$target-*"
        tail -n 20 "$log"
    fi
}

mkdir -p "$out/corpus_npy" "$out/corpus_safetensors" "$out/corpus_checkpoint"
build npy
seeds_npy "$out/corpus_npy"
run npy "{'" "'}" "'descr'" "'fortran_order'" "'shape'" : , '(' ')' '<f4' '<i4' '>f4' True False \
    9223372036854775807
if [ -n "$json_flags" ]; then
    build safetensors
    seeds_safetensors "$out/corpus_safetensors"
    run safetensors '{' '}' '[' ']' __metadata__ dtype F32 shape data_offsets : , '\\u0000' -1 \
        9223372036854775807
    build checkpoint
    seeds_checkpoint "$out/corpus_checkpoint"
    max_len=8192 run checkpoint '{' '}' '[' ']' text_config sparse_attention_config rope_parameters rope_type layer_types \
        weight_map F8_E4M3 U8 F16 F32 _scale_inv indexer. index_ -1 9223372036854775807 1e999
else
    echo "SKIP fuzz safetensors, checkpoint: libjansson-dev is not installed"
fi
exit "$found"
