#!/usr/bin/env bash
# The book's notebooks, where there is a Python with NumPy (PYTHON names another than python3). FULL: all of them in Jupyter
# too, where that is installed.
source "$(dirname "$0")/support/tap.sh"
PYTHON=${PYTHON:-python3} B=${B:-build}
if ! "$PYTHON" -c 'import numpy' 2> /dev/null; then
    skip "notebooks" "no Python with NumPy here"
elif grep -q fsanitize "$B/flags"; then
    skip "notebooks" "Python does not load a library with sanitizers"
else
    MSA_LIBRARY=$(realpath "$B/libmsa.so") PYTHONDONTWRITEBYTECODE=1 "$PYTHON" tests/support/notebooks.py # no exec: $W is removed
    exit
fi
finish
