#!/usr/bin/env bash
# msa.capture, where there is a Python with NumPy (PYTHON names another than python3): on a layer made for the
# purpose, and on MiniMax-M3's own where transformers has it.
source "$(dirname "$0")/support/tap.sh"
PYTHON=${PYTHON:-python3} B=${B:-build}
if ! "$PYTHON" -c 'import numpy' 2> /dev/null; then
    skip "msa.capture" "no Python with NumPy here"
elif grep -q fsanitize "$B/flags"; then
    skip "msa.capture" "Python does not load a library with sanitizers"
else
    MSA=$MSA MSA_LIBRARY=$(realpath "$B/libmsa.so") PYTHONDONTWRITEBYTECODE=1 "$PYTHON" tests/support/capture.py # no exec: $W is removed
    exit
fi
finish
