#!/usr/bin/env bash
# msa.transformers, where there is a Python with transformers that knows MiniMax-M3 (PYTHON names another than python3).
source "$(dirname "$0")/support/tap.sh"
PYTHON=${PYTHON:-python3} B=${B:-build}
if ! "$PYTHON" -c 'import torch, transformers.models.minimax_m3_vl' 2> /dev/null; then
    skip "msa.transformers" "no Python with PyTorch and a transformers that has minimax_m3_vl here"
elif grep -q fsanitize "$B/flags"; then
    skip "msa.transformers" "Python does not load a library with sanitizers"
else
    MSA_LIBRARY=$(realpath "$B/libmsa.so") PYTHONDONTWRITEBYTECODE=1 "$PYTHON" tests/support/python_transformers.py # no exec: $W is removed
    exit
fi
finish
