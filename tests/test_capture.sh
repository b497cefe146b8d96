#!/usr/bin/env bash
# ref/capture.py, where there is a Python with NumPy (PYTHON names another than python3): on a layer made for the
# purpose, and on MiniMax-M3's own where transformers has it.
source "$(dirname "$0")/support/tap.sh"
PYTHON=${PYTHON:-python3}
if "$PYTHON" -c 'import numpy' 2> /dev/null; then
    MSA=$MSA PYTHONDONTWRITEBYTECODE=1 exec "$PYTHON" tests/support/capture.py
fi
skip "capture.py" "no Python with NumPy here"
finish
