#!/usr/bin/env bash
# Measures every kernel on this machine's GPU and leaves a file a run in DIR (data/bench): data/bench/cuda.sh [DIR];
# ONLY=REGEX: the runs whose names match. A kernel is measured if it has agreed with the reference. Without a GPU the
# script says what is missing, in one line, and writes nothing.
#
# An illegal access spoils a process for all kernels after it, and a kernel that hangs ends nothing by itself. So each is
# verified in a process of its own, for LIMIT seconds at most; a run that does not end well is taken again, kernel by
# kernel, each with a file of its own.
set -u
export LC_ALL=C
cd "$(dirname "$0")/../.." || exit 2
MSA=${MSA:-build/msa}
DIR=${1:-data/bench}
SECONDS_EACH=${SECONDS_EACH:-2}
LIMIT=${LIMIT:-900}
PYTHON=${PYTHON:-python3}

nothing() {
    echo "bench-cuda: nothing measured: $1"
    exit 0
}
[[ -z ${NO_CUDA:-} ]] || nothing "$NO_CUDA"
"$MSA" kernels | cut -f 2 | grep -qw cuda || nothing "$MSA was built without nvcc: make cuda"
err=$("$MSA" check --backend cuda topk/warp --shape 'T=40 S=70 heads=4:2 width=64:64 block=32 topk=2' 2>&1 > /dev/null)
[[ $err != *"expected a GPU"* ]] || nothing "${err#*found }"

# A name, the kernels, the shape and the selection, "lse" for log-sum-exps or "kl" for the KL loss in backward's sweep, "fp8" for index keys. M3 is MiniMax-M3's layer: 64 query and
# 4 KV heads of 128. With topk=1 nothing ever enters a list: the fused index with its selection switched off. The
# paper's table 1 has top-k of all N x B scores, so the prefix is so long that every query sees (nearly) all blocks.
M3='heads=64:4 width=128:128 block=128 topk=16'
ONE='heads=1:1 width=64:64'
RUNS=(
    "prefill-4k|dense index topk reverse sparse prefill|T=4096 S=4096 $M3|random"
    "prefill-32k|dense index topk reverse sparse|T=32768 S=32768 $M3|random"
    "prefill-32k-hot|reverse sparse|T=32768 S=32768 $M3|hot"
    "chunk-128k|index topk reverse sparse|T=2048 S=131072 $M3|random"
    "prefill-128k|dense/hopper index/fused reverse/scan|T=131072 S=131072 $M3|random"
    "prefill-128k-k1|index/fused|T=131072 S=131072 ${M3/topk=16/topk=1}|random"
    "prefill-128k-lse|index/fused|T=131072 S=131072 $M3|random|lse"
    "prefill-1024k|dense/hopper index/fused reverse/scan|T=1048576 S=1048576 $M3|random"
    "prefill-1024k-k1|index/fused|T=1048576 S=1048576 ${M3/topk=16/topk=1}|random"
    "chunk-1m|index/fused|T=4096 S=1048576 $M3|random"
    "paper-1024|topk|T=131072 S=67108864 $ONE block=65536 topk=16|random"
    "paper-2048|topk|T=131072 S=134217728 $ONE block=65536 topk=32|random"
    "paper-4096|topk|T=524288 S=268435456 $ONE block=65536 topk=16|random"
    "paper-8192|topk|T=524288 S=536870912 $ONE block=65536 topk=32|random"
    "train-8k-ladder|backward kl|T=8192 S=8192 $M3|random"
)

# The training side: gradients alone and with the KL loss in their sweep, the selector's alone, and dense. 512 K
# tokens take 58 GB with the KL loss, a million 110 GB: of an H200.
for n in 8 32 128; do
    shape="T=$((n * 1024)) S=$((n * 1024)) $M3"
    RUNS+=("train-${n}k-dense|dense_backward|$shape|random")
    for ids in random hot local structured; do
        RUNS+=("train-${n}k-$ids|backward/kv_outer backward/hopper backward/deterministic kl/kv_outer kl/deterministic|$shape|$ids"
            "train-${n}k-$ids-kl|backward/kv_outer backward/hopper backward/deterministic|$shape|$ids|kl")
    done
done
for n in 512 1024; do
    shape="T=$((n * 1024)) S=$((n * 1024)) $M3"
    RUNS+=("train-${n}k|backward/hopper|$shape|structured" "train-${n}k-kl|backward/hopper|$shape|structured|kl"
        "train-${n}k-det|backward/deterministic|$shape|structured" "train-${n}k-index|kl/kv_outer|$shape|structured")
done

# Steps of generation, one token a request: by MSA with bf16 and with 8-bit index keys, and dense. Inputs are
# copied until they outgrow the cache twice, so every step finds it cold. 8 M tokens in all take 17 GB of bf16 K
# and V.
for n in 8 32 128 512 1024; do
    for batch in 1 8 32; do
        ((n * batch <= 8192)) || continue
        shape="T=$batch S=$((n * batch * 1024)) $M3 seqs=$batch"
        RUNS+=("${n}k-b$batch|decode dense_decode|$shape|random"
            "${n}k-b$batch-fp8|decode/swapped|$shape|random||fp8")
    done
done

# cuBLAS may have come with PyTorch, where the loader does not look.
blas=$("$PYTHON" -c 'import glob, sys
for p in sys.path:
    print(*glob.glob(p + "/nvidia/*/lib/libcublas.so.*"), sep="\n")' 2> /dev/null | grep -m1 .)
[[ -z $blas ]] || export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}${blas%/*}

bad=0
log=$(mktemp) && started=$(mktemp) || exit 2
trap 'rm -f "$log" "$started"' EXIT

limited() { # limited COMMAND...: what it says in $log; the exit status, and $ended says how it came to that
    timeout -k 10 "$LIMIT" "$@" > "$log" 2>&1
    local status=$?
    case $status in
    124 | 137) ended="no end within $LIMIT s" ;;
    *) ended=$(grep -m1 -E 'FAILED|^msa ' "$log") && [[ $status -le 2 ]] || ended="exit status $status" ;;
    esac
    return $status
}

echo "verifying: msa check --backend cuda, each kernel by itself"
passing=()
for kernel in $("$MSA" kernels | awk -F '\t' '$2 ~ /cuda/ {print $1}'); do
    if limited "$MSA" check --backend cuda "$kernel"; then
        passing+=("$kernel")
    else
        echo "bench-cuda: NOT MEASURED: $kernel: $ended" >&2
        bad=1
    fi
done
echo "${#passing[@]} kernels agree with the reference"

verified() { # verified NAME...: the kernels of these stages and of these names that may be measured
    local name kernel
    for name in "$@"; do
        for kernel in "${passing[@]}"; do
            [[ $kernel != "$name" && $kernel != "$name"/* ]] || echo "$kernel"
        done
    done
}

# A layer's prefill and its parts, and what it is compared with: every length, every selection.
for n in 8 16 32 64 128 256 512 1024; do
    shape="T=$((n * 1024)) S=$((n * 1024)) $M3"
    [[ " ${RUNS[*]}" == *" prefill-${n}k|"* ]] || RUNS+=("prefill-${n}k|dense/hopper|$shape|random")
    for ids in random hot local structured; do
        RUNS+=("layer-${n}k-$ids|reverse/scan sparse/union sparse/kv_outer prefill|$shape|$ids")
    done
done
# Where union and KV-outer meet: 16 of the 24 to 96 blocks that the last query sees, so union8 goes from 1.0 k to 4.3 k.
for s in 3 4 5 6 8 12; do
    RUNS+=("crossing-${s}k|sparse/union sparse/kv_outer prefill|T=2048 S=$((s * 1024)) $M3|random")
done

measure() { # measure FILE KERNEL...: as $shape, $ids, $also and $keys of the run say
    local file=$1
    shift
    limited "$MSA" bench "$@" --backend cuda --shape "$shape" --distribution "$ids" --seconds "$SECONDS_EACH" \
        ${also:+--$also} ${keys:+--index-keys "$keys"} --json "$file"
    local status=$?
    cat "$log"
    return $status
}

mkdir -p "$DIR" || exit 2
for run in "${RUNS[@]}"; do
    IFS='|' read -r name names shape ids also keys <<< "$run"
    [[ $name =~ ${ONLY:-.} ]] || continue
    # shellcheck disable=SC2086
    mapfile -t kernels < <(verified $names)
    [[ ${#kernels[@]} -gt 0 ]] || continue
    echo "== $name: ${kernels[*]}"
    touch "$started"
    measure "$DIR/$name.json" "${kernels[@]}" || {
        grep -q 'no memory for this shape' "$log" && continue
        bad=1
        echo "bench-cuda: $name: $ended" >&2
        [[ ! $DIR/$name.json -nt $started && ${#kernels[@]} -gt 1 ]] || continue
        for kernel in "${kernels[@]}"; do
            measure "$DIR/$name-with-${kernel/\//-}.json" "$kernel" || echo "bench-cuda: $name, $kernel: $ended" >&2
        done
    }
done
without=$(grep -l '"matmul_bf16_tflops": null' "$DIR"/*.json 2> /dev/null | wc -l)
[[ $without -eq 0 ]] || echo "bench-cuda: NO CEILING in $without files of $DIR: libcublas could not be loaded, so nothing says what share of a matrix product their kernels reach" >&2

# Other people's kernels, in the same files.
if "$PYTHON" -c 'import torch, triton' 2> /dev/null; then
    "$PYTHON" data/bench/peers/gpu.py "$DIR"/*.json || bad=1
else
    echo "bench-cuda: no peers: $PYTHON has no PyTorch and Triton"
fi
exit $bad
