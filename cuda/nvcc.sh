#!/bin/sh
# Compiles one kernel file for the GPU: cuda/nvcc.sh FILE.cu FILE.o. What ptxas says of each kernel stays beside
# the object, in FILE.o.log, for cuda/report.sh.
#
# A warning fails, and so does a tensor map that a kernel takes without __grid_constant__: each thread would copy
# it to its stack, where TMA may not read it.
#
# Registers that spill, anything else on the stack, and the mistakes that ptxas repairs (C75xx: wgmma made serial, a
# fence or wait injected, a setmaxnreg dropped) leave a kernel right and slower than it is meant to be. In 12.5 and 12.6.0
# ptxas waits for all products under way before the results of the first are used, in straight code of two products too; up to
# 12.4 it spills where later ones do not. README.md has the table. Such a kernel is not offered on the GPU: FILE.o.dropped
# says why, for `msa kernels`, and its object stays, since others may call what is in it. In a file that is no
# kernel of kernels.def it fails.
#
# Everything is compiled for sm_90a; rungs that need no Hopper instruction (80 in kernels.def) also for sm_80
# and as PTX for what comes after.
set -u
file=$1 object=$2 log=$2.log
old=
kernel=$(echo "$file" | sed -Ef cuda/kernel.sed)
line=$(grep -E "^(KERNEL|BEST)\(${kernel%/*}, ${kernel#*/}, " cuda/kernels.def)
case $file,$line in
*cuda/host/*,* | *", 80, "*) old="-gencode arch=compute_80,code=[sm_80,compute_80]" ;;
esac
rm -f "$object" "$object.dropped"

bare=$(sed 's,//.*,,' "$file" | tr '\n' ' ' | grep -oE '__global__[^;{]*[;{]' |
    sed -E 's/__grid_constant__ (CUtensorMap|Maps)//g' | grep -oE '(CUtensorMap|Maps) +[a-z_]+' | head -n 1)
if [ -n "$bare" ]; then
    echo "$file: a tensor map without __grid_constant__: $bare" >&2
    exit 1
fi
# shellcheck disable=SC2086
if ! "$NVCC" -std=c++17 -O3 -lineinfo -Werror all-warnings -Xptxas -v -Xcompiler -Wall,-fPIC,-fno-gnu-unique -I. $old \
    -gencode arch=compute_90a,code=sm_90a -c "$file" -o "$object" > "$log" 2>&1; then
    cat "$log" >&2
    rm -f "$object"
    exit 1
fi
# Such as "registers spill in 2 of its variants, ptxas repaired mistakes (C7510)".
spoiled=$(awk '/ bytes stack frame/ {if ($5 + $9 > 0) spill++; else if ($1 > 0) stack++}
    /C75[0-9][0-9]/ {match($0, /C75[0-9][0-9]/); code[substr($0, RSTART, 5)]++}
    function add(n, what) {if (n) text = text (text ? ", " : "") what}
    END {add(spill, "registers spill in " spill " of its variants")
         add(stack, "variables on the stack in " stack " of its variants")
         n = 0; for (c in code) {n++; codes = codes " " c}
         add(n, "ptxas repaired mistakes (" substr(codes, 2) ")"); print text}' "$log")
if [ -n "$spoiled" ] && [ -z "$line" ]; then
    echo "$file: $spoiled" >&2
    rm -f "$object"
    exit 1
fi
if [ -n "$spoiled" ]; then
    version=$("$NVCC" --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p')
    printf 'DROPPED("%s", "nvcc %s: %s")\n' "$kernel" "$version" "$spoiled" > "$object.dropped"
    echo "  $kernel is not offered on the GPU: nvcc $version: $spoiled" >&2
fi
exit 0
