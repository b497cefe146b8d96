#!/usr/bin/env bash
# PyTorch beside ours on the CPU (tests/peers/cpu.py), small: that they agree. PYTHON names another than python3.
source "$(dirname "$0")/tap.sh"
PYTHON=${PYTHON:-python3} B=${B:-build}
if ! "$PYTHON" -c 'import torch, numpy' 2> /dev/null; then
    skip "PyTorch's attention and ours" "no Python with PyTorch here"
elif grep -q fsanitize "$B/flags"; then
    skip "PyTorch's attention and ours" "Python does not load a library with sanitizers"
else
    MSA_LIBRARY=$(realpath "$B/libmsa.so") PYTHONDONTWRITEBYTECODE=1 \
        "$PYTHON" tests/peers/cpu.py --n 1024 2560 --heads 8 2 --seconds 0.1 --json "$W/peers.json" > "$W.out" 2> "$W.err"
    check $? "dense with scaled_dot_product_attention, MSA with a mask: they agree"
    [[ $(grep -c ' agrees$' "$W.out") -eq 8 ]]
    check $? "... all eight"
    if [[ -x $B/tests/test_bench_files ]]; then
        "$B/tests/test_bench_files" "$W/peers.json" > "$W.out" 2> "$W.err"
        check $? "... and the file of results has its fields"
    fi
fi
finish
