#!/usr/bin/env bash
# What `make gpu` measures, the most valuable first, a line each:
#
#     RUN|KERNELS|SHAPE|IDS|ALSO|KEYS|LIMIT
#
# A run's kernels (a stage's name means all of its) are measured one by one, each into a file RUN.STAGE-NAME.json. ALSO is
# "lse" for log-sum-exps or "kl" for the KL loss in backward's sweep, KEYS the kind of index keys, LIMIT the seconds that a
# kernel may take where the usual ones will not do. KERNELS = "peers": other people's kernels, added to the files
# that SHAPE names or, of the best kernels, "all" have; "sanitizer": TOOL and STAGE of a report; "tune": msa tune, whose values
# go into DIR/cuda.tuned, and which the runs called tuned... wait for. What comes again further down is done once.
set -u

# M3 is MiniMax-M3's layer: 64 query and 4 KV heads of 128. With topk=1 nothing ever enters a list: the fused index
# with its selection switched off.
M3='heads=64:4 width=128:128 block=128 topk=16'
length() { # length K: a prompt of so many thousand tokens
    echo "T=$(($1 * 1024)) S=$(($1 * 1024)) $M3"
}
steps() { # steps K BATCH: one token a request, over so many thousand
    echo "T=$2 S=$(($1 * $2 * 1024)) $M3 seqs=$2"
}
first_k() { # the same shape with k = 1
    echo "${1/topk=16/topk=1}"
}
all_ids='random hot local structured'

# ---- What a quarter of an hour has to tell -------------------------------------------------------------------------

echo "prefill-128k|dense/hopper|$(length 128)|random"
for ids in structured random; do
    echo "layer-128k-$ids|prefill/auto|$(length 128)|$ids"
done
echo "prefill-128k|index/fused|$(length 128)|random"
echo "prefill-128k-k1|index/fused|$(first_k "$(length 128)")|random"
# A decoding step's inputs are copied until they outgrow the cache twice, so it finds them cold. 8 M tokens in all
# take 17 GB of bf16 K and V, 32 M tokens 69.
for batch in 1 8; do
    echo "1024k-b$batch|decode/swapped dense_decode/split|$(steps 1024 $batch)|random"
done
# int8: exact, by an 8-bit copy beside the bf16 keys and a bound; fp8: rounded keys, other ids.
echo "1024k-b8-int8|decode/swapped|$(steps 1024 8)|random||int8"
echo "1024k-b8-fp8|decode/swapped|$(steps 1024 8)|random||fp8"
echo "1024k-b32|decode/swapped dense_decode/split|$(steps 1024 32)|random"
echo "prefill-1024k|index/fused|$(length 1024)|random"
echo "prefill-1024k-k1|index/fused|$(first_k "$(length 1024)")|random"
for ids in structured random hot local; do
    echo "layer-128k-$ids|sparse/union sparse/kv_outer reverse/scan|$(length 128)|$ids"
done

# The paper's table 1 has top-k of all N x B scores, so the prefix is so long that every query sees (nearly) all blocks.
paper() { # paper KERNELS
    local one='heads=1:1 width=64:64 block=65536'
    echo "paper-1024|$1|T=131072 S=67108864 $one topk=16|random"
    echo "paper-2048|$1|T=131072 S=134217728 $one topk=32|random"
    echo "paper-4096|$1|T=524288 S=268435456 $one topk=16|random"
    echo "paper-8192|$1|T=524288 S=536870912 $one topk=32|random"
}
paper topk/threshold
paper topk/columns

# 512 K tokens take 58 GB with the KL loss, a million 110 GB: of an H200.
echo "train-128k-dense|dense_backward/hopper|$(length 128)|random"
for ids in structured random; do
    echo "train-128k-$ids-kl|backward/deterministic|$(length 128)|$ids|kl"
    echo "train-128k-$ids|backward/deterministic backward/hopper|$(length 128)|$ids"
done
for ids in structured random; do
    echo "layer-1024k-$ids-int8|prefill/auto|$(length 1024)|$ids||int8"
    echo "layer-1024k-$ids|prefill/auto|$(length 1024)|$ids"
done
echo "prefill-1024k-int8|index/screened|$(length 1024)|random||int8"
echo "prefill-1024k|dense/hopper|$(length 1024)|random|||400" # 18 PFLOP a run, of which there are six
for files in prefill-128k.dense-hopper paper-1024.topk-threshold train-128k-dense.dense_backward-hopper layer-128k-structured.sparse-union; do
    echo "peers|peers|$files"
done

# What the parameters of cuda/tunables.def are worth: all that is above has their presets, and so has all that follows.
echo "tune|tune|||||240"
for ids in structured random; do
    echo "tuned-128k-$ids|prefill/auto|$(length 128)|$ids"
done
echo "tuned-train-128k-structured-kl|backward/deterministic|$(length 128)|structured|kl"

# ---- All else ------------------------------------------------------------------------------------------------------

# A layer's prefill and its parts, and what it is compared with: every length, every selection.
for n in 32 1024 8 16 64 128 256 512; do
    echo "prefill-${n}k|dense/hopper index/fused reverse/scan|$(length $n)|random|||$((n == 1024 ? 400 : 150))"
    for ids in $all_ids; do
        echo "layer-${n}k-$ids|prefill reverse/scan sparse/union sparse/kv_outer|$(length $n)|$ids"
    done
done
echo "prefill-128k-lse|index/fused|$(length 128)|random|lse"
echo "chunk-128k|index topk reverse sparse|T=2048 S=131072 $M3|random"
echo "chunk-1m|index/fused|T=4096 S=1048576 $M3|random"
echo "chunk-1m-int8|index/screened|T=4096 S=1048576 $M3|random||int8"
# From which length on a copy pays: screen_from in cuda/tunables.def.
for n in 64 128 256 512; do
    echo "prefill-${n}k-int8|index/screened|$(length $n)|random||int8"
done
paper topk

# Where union and KV-outer meet: 16 of the 24 to 96 blocks that the last query sees, so union8 goes from 1.0 k to 4.3 k.
for s in 3 4 5 6 8 12; do
    echo "crossing-${s}k|sparse/union sparse/kv_outer prefill|T=2048 S=$((s * 1024)) $M3|random"
done

# The training side: gradients alone and with the KL loss in their sweep, the selector's alone, and dense.
for n in 128 32 8; do
    echo "train-${n}k-dense|dense_backward|$(length $n)|random"
    for ids in $all_ids; do
        echo "train-${n}k-$ids|backward/kv_outer backward/hopper backward/deterministic kl/kv_outer kl/deterministic|$(length $n)|$ids"
        echo "train-${n}k-$ids-kl|backward/kv_outer backward/hopper backward/deterministic|$(length $n)|$ids|kl"
    done
done
for n in 512 1024; do
    echo "train-${n}k|backward/hopper backward/deterministic kl/kv_outer|$(length $n)|structured"
    echo "train-${n}k-kl|backward/hopper|$(length $n)|structured|kl"
done

# Steps of generation: by MSA with bf16 index keys, with an 8-bit copy of them and with 8-bit ones, and dense.
for n in 8 32 128 512 1024; do
    for batch in 1 8 32; do
        ((n * batch <= 8192)) || continue
        echo "${n}k-b$batch|decode dense_decode|$(steps $n $batch)|random"
        echo "${n}k-b$batch-fp8|decode/swapped|$(steps $n $batch)|random||fp8"
        ((n < 128)) || echo "${n}k-b$batch-int8|decode/swapped|$(steps $n $batch)|random||int8" # shorter ones are not screened
    done
done

# The whole ladders, naive rungs too, where these end.
echo "prefill-4k|dense index topk reverse sparse prefill|$(length 4)|random"
echo "prefill-32k|dense index topk reverse sparse|$(length 32)|random"
echo "prefill-32k-hot|reverse sparse|$(length 32)|hot"
echo "train-8k-ladder|backward kl|$(length 8)|random"

echo "peers|peers|all"

# A report, which judges nothing: the tools do not know every order that mbarriers and the async proxy make.
for tool in memcheck racecheck synccheck initcheck; do
    for stage in dense index topk reverse sparse prefill decode dense_decode backward dense_backward kl; do
        echo "sanitizer|sanitizer|$tool $stage"
    done
done
