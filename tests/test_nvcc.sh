#!/usr/bin/env bash
# What cuda/nvcc.sh makes of what a compiler says, with a compiler that says what it is told: no nvcc is needed.
source "$(dirname "$0")/support/tap.sh"
export NVCC=$W/nvcc SAYS=$W/says STATUS=0
cat > "$NVCC" <<'SH'
#!/bin/sh
case $1 in
--version) echo "Cuda compilation tools, release 12.4, V12.4.131" ;;
*)
    cat "$SAYS"
    while [ "$1" != -o ]; do shift; done
    : > "$2"
    exit "$STATUS" ;;
esac
SH
chmod +x "$NVCC"
frame() { echo "    $1 bytes stack frame, $2 bytes spill stores, $3 bytes spill loads"; }

compile() { # compile FILE: its exit status; W.err, and the object W/o
    cuda/nvcc.sh "$1" "$W/o" > "$W.out" 2> "$W.err"
}
dropped() { # dropped TEXT: the object is there, and beside it one line that says why it is not offered
    [[ -e $W/o && $(cat "$W/o.dropped" 2> /dev/null) == "$1" && $(wc -l < "$W.err") -eq 1 ]]
}

kernel=cuda/dense/4_hopper.cu
frame 0 0 0 > "$SAYS"
compile $kernel && [[ -e $W/o && ! -e $W/o.dropped && ! -s $W.err ]]
check $? "a clean kernel is offered"

{ frame 0 0 0 && frame 16 12 12 && frame 8 0 4; } > "$SAYS"
compile $kernel && dropped 'DROPPED("dense/hopper", "nvcc 12.4: registers spill in 2 of its variants")'
check $? "a kernel whose registers spill is left out, and the build goes on"

{ frame 0 0 0 && echo "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized"; } > "$SAYS"
compile $kernel && dropped 'DROPPED("dense/hopper", "nvcc 12.4: ptxas repaired mistakes (C7510)")'
check $? "a kernel whose wgmma is made serial is left out"

frame 384 0 0 > "$SAYS"
compile $kernel && dropped 'DROPPED("dense/hopper", "nvcc 12.4: variables on the stack in 1 of its variants")'
check $? "a kernel with a stack frame is left out"

compile cuda/decode/dense/1_split.cu && dropped 'DROPPED("dense_decode/split", "nvcc 12.4: variables on the stack in 1 of its variants")'
check $? "... by the name of its stage where that lies inside another's room"

frame 0 0 0 > "$SAYS"
compile $kernel && [[ ! -e $W/o.dropped ]]
check $? "and is offered again when it compiles cleanly"

echo 'DROPPED("sparse/union", "nvcc 12.4: registers spill in 2 of its variants")' > "$W/a.dropped"
cuda/dropped.sh "$W/a.dropped" > "$W.out" && [[ $(sort "$W.out") == 'DROPPED("prefill/auto", "made of sparse/union, which nvcc spoils")
DROPPED("prefill/union", "made of sparse/union, which nvcc spoils")
DROPPED("sparse/union", "nvcc 12.4: registers spill in 2 of its variants")' ]]
check $? "what is made of a kernel goes with it"

[[ -z $(cuda/dropped.sh) ]]
check $? "and where none is left out, nothing goes"

frame 8 4 4 > "$SAYS"
! compile tests/device/measurements.cu && [[ ! -e $W/o ]] && grep -q 'tests/device/measurements.cu: registers spill' "$W.err"
check $? "what is no kernel fails, and leaves no object"

frame 0 0 0 > "$SAYS"
STATUS=1 compile $kernel
[[ $? -eq 1 && ! -e $W/o ]]
check $? "an error of the compiler fails"

mkdir -p "$W/cuda/dense" && sed 's/const __grid_constant__ CUtensorMap map_v/const CUtensorMap map_v/' $kernel > "$W/cuda/dense/4_hopper.cu"
! cmp -s $kernel "$W/cuda/dense/4_hopper.cu" && ! compile "$W/cuda/dense/4_hopper.cu" && grep -q 'without __grid_constant__' "$W.err"
check $? "a tensor map that is forgotten to be __grid_constant__ fails"

! grep -lE 'cudaGetDriverEntryPoint' -r cuda --include='*.cu*' | grep -v tensor_map.cuh
check $? "the driver's entry point is asked for in one place, by version"
finish
