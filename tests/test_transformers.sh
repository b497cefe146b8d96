#!/usr/bin/env bash
# `msa layer` against Hugging Face transformers, where a Python has it and PyTorch (PYTHON names another than python3).
# FULL: also 4096 tokens.
source "$(dirname "$0")/support/tap.sh"
PYTHON=${PYTHON:-python3}
if ! has_models; then
    skip "layers of transformers" "no jansson here"
elif ! "$PYTHON" -c 'import numpy, torch, transformers.models.minimax_m3_vl' 2> /dev/null; then
    skip "layers of transformers" "no Python with PyTorch and a transformers that has MiniMax-M3 here"
else
    export MSA PYTHONDONTWRITEBYTECODE=1
    "$PYTHON" tests/support/published.py # no exec: $W is removed
    exit
fi
finish
