#!/usr/bin/env bash
# Other people's kernels: PyTorch beside ours on the CPU (data/bench/peers/cpu.py), small, that they agree; the Triton
# kernel that gpu.py times. PYTHON names another than python3.
source "$(dirname "$0")/support/tap.sh"
PYTHON=${PYTHON:-python3} B=${B:-build}
if ! "$PYTHON" -c 'import torch, numpy' 2> /dev/null; then
    skip "PyTorch's attention and ours" "no Python with PyTorch here"
elif grep -q fsanitize "$B/flags"; then
    skip "PyTorch's attention and ours" "Python does not load a library with sanitizers"
else
    export MSA_LIBRARY=$(realpath "$B/libmsa.so") PYTHONDONTWRITEBYTECODE=1 MSA
    peers() { # peers NAME ARGUMENT...
        local name=$1
        shift
        "$PYTHON" data/bench/peers/cpu.py --heads 8 2 --seconds 0.1 --json "$W/peers.json" "$@" > "$W.out" 2> "$W.err"
        check $? "$name"
    }
    has_fields() {
        "$MSA" results > /dev/null 2>&1 || return
        "$MSA" results "$W/peers.json" > "$W/tables" 2> "$W.err"
        check $? "... and the file of results has its fields"
        [[ $(grep -c '^\*\*dense.* float32$' "$W/tables") -eq $1 && $(grep -cE '^\*\*dense.* bf16( without tiles)?$' "$W/tables") -eq 1 ]]
        check $? "... which become tables of a type each"
        [[ $(grep -cE '^\| .* \| (float32|bf16|bf16 without tiles) \| (dense|prefill|sparse)/fast \| ' "$W/tables") -eq $(grep -c 'times as fast as' "$W.out") ]]
        check $? "... and one of ratios"
    }
    while read -r ok name; do
        [[ $ok == ok ]]
        check $? "${name#ok }"
    done < <("$PYTHON" tests/support/peers.py 2>&1)
    peers "dense with scaled_dot_product_attention, MSA with a mask: they agree" --n 1024 2560
    [[ $(grep -c ' agrees$' "$W.out") -eq 14 && $(grep -c 'bf16 .* agrees$' "$W.out") -eq 6 ]]
    check $? "... all fourteen, six of them in bf16"
    [[ $(grep -c ' times as fast as ' "$W.out") -eq 14 ]]
    check $? "... with a ratio of each pair"
    has_fields 1
    peers "a chunk at the end of a prefix" --n 2560 --queries 256 --types bf16 --flex
    grep -q "^256 queries at the end of 2560 keys: PyTorch's without the causal mask$" "$W.out" && [[ $(grep -cE 'dense +(fast|peer:sdpa) .* agrees$' "$W.out") -eq 2 ]]
    check $? "... and says that PyTorch's goes without the mask"
    if grep -q '^flex_attention does not run here' "$W.out"; then
        skip "flex_attention with the selection as a mask" "$(grep '^flex_attention' "$W.out")"
    else
        [[ $(grep -cE 'sparse +(fast|peer:flex) .* agrees$' "$W.out") -eq 2 ]]
        check $? "... flex_attention with the selection as a mask agrees"
    fi
    has_fields 0
    MSA="$W/none" "$PYTHON" data/bench/peers/cpu.py --n 128 --types bf16 --seconds 0.01 --json "$W/none.json" > "$W.out" 2> "$W.err"
    [[ $? -eq 2 && $(wc -l < "$W.err") -eq 1 && ! -e $W/none.json ]] && grep -q '^cpu.py: MSA: expected the program msa' "$W.err"
    check $? "refused: ceilings without the program"
fi
if "$PYTHON" -c 'import torch, triton' 2> /dev/null; then
    TRITON_INTERPRET=1 "$PYTHON" data/bench/peers/gpu.py --self-test > "$W.out" 2> "$W.err"
    check $? "the block-sparse kernel in Triton, interpreted, on the four selections"
else
    skip "the block-sparse kernel in Triton" "no Python with PyTorch and Triton here"
fi
finish
