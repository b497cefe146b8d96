#!/usr/bin/env bash
# msa for Python, where there is a Python with NumPy (PYTHON names another than python3).
source "$(dirname "$0")/support/tap.sh"
PYTHON=${PYTHON:-python3} B=${B:-build}
if ! "$PYTHON" -c 'import numpy' 2> /dev/null; then
    skip "msa for Python" "no Python with NumPy here"
elif grep -q fsanitize "$B/flags"; then
    skip "msa for Python" "Python does not load a library with sanitizers"
else
    MSA_LIBRARY=$(realpath "$B/libmsa.so") PYTHONDONTWRITEBYTECODE=1 "$PYTHON" tests/support/python.py # no exec: $W is removed
    exit
fi
finish
