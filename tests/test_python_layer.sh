#!/usr/bin/env bash
# msa.layer, where there is a Python with NumPy (PYTHON names another than python3).
source "$(dirname "$0")/support/tap.sh"
PYTHON=${PYTHON:-python3} B=${B:-build}
if ! has_models; then
    skip "msa.layer" "no jansson here"
elif ! "$PYTHON" -c 'import numpy' 2> /dev/null; then
    skip "msa.layer" "no Python with NumPy here"
elif grep -q fsanitize "$B/flags"; then
    skip "msa.layer" "Python does not load a library with sanitizers"
else
    MSA=$MSA MSA_LIBRARY=$(realpath "$B/libmsa.so") PYTHONDONTWRITEBYTECODE=1 "$PYTHON" tests/support/python_layer.py # no exec: $W is removed
    exit
fi
finish
