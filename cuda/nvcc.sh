#!/bin/sh
# Compiles one kernel file for the GPU: cuda/nvcc.sh FILE.cu FILE.o. Fails on a warning, on a register that
# spills, and on every mistake that ptxas had to repair (C75xx: a fence or wait injected, a setmaxnreg
# dropped). What ptxas says of each kernel stays beside the object, for cuda/report.sh.
#
# Everything is compiled for sm_90a; rungs that need no Hopper instruction (80 in kernels.def) also for sm_80
# and as PTX for what comes after.
set -u
file=$1 object=$2 log=$2.log
old=
name=${file##*/[0-9]_}
stage=${file%/*}
if grep -qE "^KERNEL\(${stage##*/}, ${name%.cu}, 80," cuda/kernels.def || [ "$stage" = cuda ]; then
    old="-gencode arch=compute_80,code=[sm_80,compute_80]"
fi
# shellcheck disable=SC2086
if ! "$NVCC" -std=c++17 -O3 -lineinfo -Werror all-warnings -Xptxas -v -Xcompiler -Wall,-fPIC,-fno-gnu-unique -I. $old \
    -gencode arch=compute_90a,code=sm_90a -c "$file" -o "$object" > "$log" 2>&1; then
    cat "$log" >&2
    rm -f "$object"
    exit 1
fi
if grep -qE 'C75[0-9][0-9]' "$log"; then
    echo "$file: ptxas repaired a mistake:" >&2
    grep -E 'C75[0-9][0-9]' "$log" | sort -u >&2
    rm -f "$object"
    exit 1
fi
if grep 'bytes spill' "$log" | grep -qvE ' 0 bytes spill stores, 0 bytes spill loads'; then
    echo "$file: registers spill:" >&2
    grep -B2 'bytes spill' "$log" | grep -vE ' 0 bytes spill stores, 0 bytes spill loads' >&2
    rm -f "$object"
    exit 1
fi
