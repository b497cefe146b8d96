#!/usr/bin/env bash
# Measures the fast path on this CPU, float32 and bf16, judged before and after, and leaves its files in DIR
# (data/bench): data/bench/cpu.sh [DIR]. One KV group of MiniMax-M3's heads, but all four for decode (of one request)
# and memory. All of it fits 24 GB.
#   cpu-16k .. cpu-chunk-1m.json   msa bench: stages against the ceilings measured in the same run
#   cpu-peers-*.json               data/bench/peers/cpu.py: PyTorch beside ours on the same tensors (PYTHON has PyTorch)
#   cpu-memory.txt                 peak memory of a chunk of 4096 queries over a million keys (10 GB)
#   cpu-train.txt                  a training step of the small model with the plain reference, with fast, and in bf16
#   cpu-ranks.txt                  data/bench/ranks.sh: two ranks of one thread against two threads
# ON=epyc keeps those of a second kind of processor apart: cpu-epyc-16k.json, of one with AVX512-BF16.
# Kernels of bf16 (STAGE/amx) run on tiles where the processor has some; without, the files say "tiles": false, and it
# takes longer. Dense attention at 64K takes most of the time. NAMES picks some; SECONDS_EACH is for the repeats of a
# kernel, of which there are 3 at least.
set -u
export LC_ALL=C
cd "$(dirname "$0")/../.." || exit 2
B=${B:-build} MSA=${MSA:-$B/msa} PYTHON=${PYTHON:-python3}
DIR=${1:-data/bench} CPU=${1:-data/bench}/cpu${ON:+-$ON}
EACH=${SECONDS_EACH:-1}
NAMES=${NAMES:-16k 32k 64k gradients-16k decode-1m decode-1m-bf16 decode-8x1m-bf16 chunk-1m ladder peers-16k peers-64k peers-chunk-1m memory train ranks}
ONE='heads=16:1 width=128:128 block=128 topk=16'
ALL='heads=64:4 width=128:128 block=128 topk=16'

mkdir -p "$DIR"
failed=0
wanted() { # wanted NAME
    [[ " $NAMES " == *" $1 "* ]]
}
run() { # run NAME KERNELS SHAPE [OPTION...]
    local name=$1 kernels=$2 shape=$3 json=()
    wanted "$name" || return
    shift 3
    "$MSA" help bench | grep -q -- --json && json=(--json "$CPU-$name.json")
    echo "$name: $shape"
    "$MSA" bench $kernels --backend fast --shape "$shape" --seconds "$EACH" --limit 3600 "$@" "${json[@]}" || failed=1
}
has_torch() {
    "$PYTHON" -c 'import torch, numpy' 2> /dev/null
}
peers() { # peers NAME OPTION...
    local name=$1
    shift
    wanted "peers-$name" || return
    if has_torch; then
        MSA=$MSA MSA_LIBRARY=$(realpath "$B/libmsa.so") "$PYTHON" data/bench/peers/cpu.py "$@" --seconds "$EACH" \
            --json "$CPU-peers-$name.json" || failed=1
    else
        echo "peers-$name: skipped: no Python with PyTorch here (PYTHON names another than $PYTHON)"
    fi
}

# Seconds of $2 steps; the losses stay in $1.losses. The text is short: so is the last judgement.
training() { # training NAME STEPS OPTION...
    local begin=$EPOCHREALTIME
    "$MSA" train --text "$W/text" --out "$W/$1.safetensors" --steps "$2" --index-warmup 0 "${@:3}" > "$W/log" || return 1
    awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN {print b - a}'
    cut -d , -f 1-3 "$W/$1.csv" > "$W/$1.losses"
    rm -f "$W/$1.safetensors" "$W/$1.csv"
}
# What a step takes is the difference of two runs, so that setting up and judging cancel.
step() { # step NAME FEW MANY OPTION...
    local few many
    few=$(training "$1" "$2" "${@:4}") && many=$(training "$1" "$3" "${@:4}") &&
        awk -v a="$few" -v b="$many" -v n=$(($3 - $2)) 'BEGIN {print (b - a) / n}'
}
train() {
    local W tiles=without
    wanted train || return
    W=$(mktemp -d)
    head -c 60000 "$(data/text.sh "$B" kjv)" > "$W/text"
    ! grep -qs amx_bf16 /proc/cpuinfo || tiles=with
    {
        awk -v r="$(step ref 1 3 --backend ref)" -v f="$(step fast 1 11)" -v h="$(step bf16 1 11 --precision bf16)" -v t=$tiles 'BEGIN {
            printf "training step of the small model: reference %.3f s, fast %.3f s, ratio %.1f\n", r, f, r / f
            printf "its attention in bf16, %s tiles: %.3f s, %.2f of fast\n", t, h, h / f}'
        echo "step, bits per byte and KL of the reference, of fast, and of bf16:"
        join -t , <(tail -n +2 "$W/ref.losses") <(tail -n +2 "$W/fast.losses") | join -t , - <(tail -n +2 "$W/bf16.losses")
    } | tee "$CPU-train.txt"
    rm -r "$W"
}

# A stage's name alone means its kernels of both types.
run 16k 'dense index sparse/blocks sparse/ruled sparse/amx_queries sparse/amx_blocks sparse/amx prefill' "T=16384 S=16384 $ONE"
run gradients-16k 'backward/ruled backward/amx dense_backward kl/ruled kl/amx' "T=16384 S=16384 $ONE"
run 32k 'dense index sparse/ruled sparse/amx prefill' "T=32768 S=32768 $ONE"
run 64k 'dense index sparse/blocks sparse/ruled sparse/amx prefill' "T=65536 S=65536 $ONE"
run decode-1m 'decode/streams dense_decode/streams' "T=1 S=1048576 $ALL"
run decode-1m-bf16 'decode dense_decode' "T=1 S=1048576 $ALL" --bf16-keys
run decode-8x1m-bf16 'decode dense_decode' "T=8 S=8388608 seqs=8 $ONE" --bf16-keys
run chunk-1m 'index sparse/ruled sparse/amx prefill' "T=4096 S=1048576 $ONE"
run ladder sparse "T=1024 S=16384 $ONE"
peers 16k --n 16384 --flex
peers 64k --n 65536
# Float32, or a mask of a billion pairs, would take half an hour more.
peers chunk-1m --n 1048576 --queries 4096 --types bf16
if wanted memory; then
    MSA_LARGE=1 "$B/tests/test_memory" 1 > "$CPU-memory.txt" || failed=1
    cat "$CPU-memory.txt"
fi
train
! wanted ranks || NAMES= B=$B MSA=$MSA data/bench/ranks.sh "$CPU-ranks.txt" || failed=1
exit $failed
