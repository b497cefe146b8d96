#!/usr/bin/env bash
# Other people's kernels: PyTorch beside ours on the CPU (data/bench/peers/cpu.py), small, that they agree; the Triton
# kernel that gpu.py times. PYTHON names another than python3.
source "$(dirname "$0")/support/tap.sh"
PYTHON=${PYTHON:-python3} B=${B:-build}
if ! "$PYTHON" -c 'import torch, numpy' 2> /dev/null; then
    skip "PyTorch's attention and ours" "no Python with PyTorch here"
elif grep -q fsanitize "$B/flags"; then
    skip "PyTorch's attention and ours" "Python does not load a library with sanitizers"
else
    MSA_LIBRARY=$(realpath "$B/libmsa.so") PYTHONDONTWRITEBYTECODE=1 \
        "$PYTHON" data/bench/peers/cpu.py --n 1024 2560 --heads 8 2 --seconds 0.1 --json "$W/peers.json" > "$W.out" 2> "$W.err"
    check $? "dense with scaled_dot_product_attention, MSA with a mask: they agree"
    [[ $(grep -c ' agrees$' "$W.out") -eq 8 ]]
    check $? "... all eight"
    if "$MSA" results > /dev/null 2>&1; then
        "$MSA" results "$W/peers.json" > "$W.out" 2> "$W.err"
        check $? "... and the file of results has its fields"
    fi
fi
if "$PYTHON" -c 'import torch, triton' 2> /dev/null; then
    TRITON_INTERPRET=1 "$PYTHON" data/bench/peers/gpu.py --self-test > "$W.out" 2> "$W.err"
    check $? "the block-sparse kernel in Triton, interpreted, on the four selections"
else
    skip "the block-sparse kernel in Triton" "no Python with PyTorch and Triton here"
fi
finish
