#!/usr/bin/env bash
# msa.torch on the device of msa_cuda.h that every machine has, the CPU engine, where there is a Python with PyTorch (PYTHON
# names another than python3).
source "$(dirname "$0")/support/tap.sh"
PYTHON=${PYTHON:-python3} B=${B:-build}
if ! "$PYTHON" -c 'import torch' 2> /dev/null; then
    skip "msa.torch on a device" "no Python with PyTorch here"
elif [[ ! -s $B/libmsa_cuda.so ]]; then
    skip "msa.torch on a device" "no C++ compiler here, so no engine"
elif grep -q fsanitize "$B/flags"; then
    skip "msa.torch on a device" "Python does not load a library with sanitizers"
else
    MSA_LIBRARY=$(realpath "$B/libmsa.so") PYTHONDONTWRITEBYTECODE=1 "$PYTHON" tests/support/python_device.py # no exec: $W is removed
    exit
fi
finish
