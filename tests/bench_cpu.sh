#!/usr/bin/env bash
# Measures the fast path on this CPU, judged before and after, and leaves a file a shape in DIR (data/bench):
# tests/bench_cpu.sh [DIR]. Ceilings are measured in each run. One KV group of MiniMax-M3's heads, but all four
# for decode. About 20 minutes on two cores, most of them dense attention at 64K; NAMES= picks some.
set -u
export LC_ALL=C
cd "$(dirname "$0")/.." || exit 2
MSA=${MSA:-build/msa}
DIR=${1:-data/bench}
NAMES=${NAMES:-16k 32k 64k decode-1m chunk-1m ladder}
ONE='heads=16:1 width=128:128 block=128 topk=16'
ALL='heads=64:4 width=128:128 block=128 topk=16'

mkdir -p "$DIR"
failed=0
run() { # run NAME KERNELS SHAPE
    local json=()
    [[ " $NAMES " == *" $1 "* ]] || return
    "$MSA" help bench | grep -q -- --json && json=(--json "$DIR/cpu-$1.json")
    echo "$1: $3"
    "$MSA" bench $2 --backend fast --shape "$3" --seconds "${SECONDS_EACH:-3}" "${json[@]}" || failed=1
}
run 16k 'dense index sparse/blocks sparse/ruled prefill' "T=16384 S=16384 $ONE"
run 32k 'dense index sparse/ruled prefill' "T=32768 S=32768 $ONE"
run 64k 'dense index sparse/ruled prefill' "T=65536 S=65536 $ONE"
run decode-1m 'decode dense' "T=1 S=1048576 $ALL"
run chunk-1m 'index sparse/ruled prefill' "T=4096 S=1048576 $ONE"
run ladder sparse "T=1024 S=16384 $ONE"
exit $failed
