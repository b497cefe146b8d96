#!/usr/bin/env bash
# msa.torch, where there is a Python with PyTorch (PYTHON names another than python3).
source "$(dirname "$0")/support/tap.sh"
PYTHON=${PYTHON:-python3} B=${B:-build}
if ! "$PYTHON" -c 'import torch' 2> /dev/null; then
    skip "msa.torch" "no Python with PyTorch here"
elif grep -q fsanitize "$B/flags"; then
    skip "msa.torch" "Python does not load a library with sanitizers"
else
    MSA=$MSA MSA_LIBRARY=$(realpath "$B/libmsa.so") PYTHONDONTWRITEBYTECODE=1 "$PYTHON" tests/support/python_torch.py # no exec: $W is removed
    exit
fi
finish
