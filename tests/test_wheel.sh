#!/usr/bin/env bash
# The wheel: made without a network, installed into a fresh environment whose PATH has no compiler, and README's Python
# run there. PYTHON (python3) has NumPy; it or the system's makes the wheel.
source "$(dirname "$0")/support/tap.sh"
PYTHON=${PYTHON:-python3} B=${B:-build}
export PYTHONDONTWRITEBYTECODE=1 MSA_LIBRARY
MSA_LIBRARY=$(realpath "$B/libmsa.so")
if grep -q fsanitize "$B/flags"; then
    skip "the wheel" "Python does not load a library with sanitizers"
    finish
fi

if command -v "$PYTHON" > /dev/null; then
    printf '#!/bin/sh\nexec "%s" -S "$@"\n' "$(command -v "$PYTHON")" > "$W/bare"
    chmod +x "$W/bare"
    PYTHON=$W/bare .ci/wheel "$W/none" > "$W.out" 2> "$W.err"
    [[ $? -eq 2 && ! -e $W/none && $(cat "$W.err") == "make wheel: expected pip and setuptools 70.1 or newer"*", found no pip"* ]]
    check $? "without tools it says which"
else
    skip "the tools that are missing" "no Python here"
fi
for maker in "$PYTHON" /usr/bin/python3; do
    rm -rf "$W/dist"
    PYTHON=$maker .ci/wheel "$W/dist" > "$W.out" 2> "$W.err" && break
    grep -q '^make wheel: expected' "$W.err" || break
done
if grep -q '^make wheel: expected' "$W.err"; then
    skip "the wheel" "$(sed 's/^make wheel: //; s/; PYTHON.*//' "$W.err")"
    finish
fi
wheel=$(ls "$W"/dist/msa-*-py3-none-*.whl 2> "$W.err")
check $? "the wheel is for any Python 3 on this kind of machine"
[[ $wheel == */msa-$("$MSA" version | cut -d ' ' -f 2)-* ]]
check $? "... of the program's version"
git status --short --untracked-files=all ref/python > "$W.out" 2>&1
! grep -E 'egg-info|/build/|pycache' "$W.out"
check $? "making it leaves nothing beside the sources"
MSA_LIBRARY=$W/nowhere.so PYTHON=$maker .ci/wheel "$W/none" > "$W.out" 2>&1
[[ $? -ne 0 ]] && grep -qF "$W/nowhere.so: expected the library, found none; \`make build\` makes it" "$W.out"
check $? "without the library there is no wheel"
mkdir "$W/alone" && cp "$MSA_LIBRARY" "$W/alone/libmsa.so"
MSA_LIBRARY=$W/alone/libmsa.so PYTHON=$maker .ci/wheel "$W/none" > "$W.out" 2>&1
[[ $? -ne 0 ]] && grep -qF "$W/alone/msa: expected the program, found none; \`make build\` makes it" "$W.out"
check $? "... nor without the program"

if ! numpy=$("$PYTHON" -c 'import numpy, os; print(os.path.dirname(os.path.dirname(numpy.__file__)))' 2> /dev/null); then
    skip "installing it" "no Python with NumPy here"
    finish
elif ! "$PYTHON" -m venv "$W/venv" > "$W.out" 2>&1; then
    skip "installing it" "this Python makes no virtual environment: $(tail -n 1 "$W.out")"
    finish
fi
unset MSA_LIBRARY
mkdir "$W/packages" # where NumPy is, but without an msa that may be installed there
for package in "$numpy"/*; do [[ ${package##*/} == msa || ${package##*/} == msa-* ]] || ln -s "$package" "$W/packages/"; done
inside() { # inside COMMAND...: in the environment, with nothing else on PATH but NumPy's Python packages
    (cd "$W" && env -i HOME="$W" PATH="$W/venv/bin" PYTHONPATH="$W/packages" OMP_WAIT_POLICY=passive PYTHONDONTWRITEBYTECODE=1 "$@")
}
! inside python -c 'import shutil, sys; sys.exit(not any(map(shutil.which, ("cc", "gcc", "clang", "c++", "make"))))'
check $? "no compiler on PATH"
inside python -m pip --disable-pip-version-check install --quiet --no-index --no-deps "$wheel" > "$W.out" 2> "$W.err"
check $? "pip installs it"
inside python -c '
import msa, os, numpy as np
q = np.ones((5, 2, 8), np.float32)
print(os.path.dirname(msa.__file__), msa._lib._name, msa.dense(q, q, q)[0].sum())
print(sorted(os.listdir(os.path.dirname(msa.__file__))))' > "$W.out" 2> "$W.err"
site=$(inside python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
grep -qxF "$site/msa $site/msa/libmsa.so 80.0" "$W.out"
check $? "the package finds the library that it carries"
(cd ref/python/msa && ls) | while read -r name; do grep -qF "'$name'" "$W.out" || [[ $name == __pycache__ ]] || exit 1; done
check $? "... and has all its files"
[[ $(inside msa version 2> "$W.err") == "$("$MSA" version)" ]]
check $? "the command msa is the program that it carries"
if has_models; then
    "$PYTHON" data/checkpoint/random_m3.py "$W/m3" --tokens 50 > "$W.out" 2> "$W.err"
    inside python -c 'import msa, numpy as np; print(msa.layer("m3", 1, np.load("m3/x.npy"))["y"].shape)' > "$W.out" 2> "$W.err"
    grep -qxF '(50, 64)' "$W.out"
    check $? "... which runs a layer of a checkpoint"
else
    skip "a layer of a checkpoint" "no jansson here"
fi

# README's blocks that import msa: the second and, where there is PyTorch, the third of its Python.
block() { awk -v want="$1" '/^```/ { if (on) exit; if ($0 == "```python" && ++k == want) { on = 1; next } } on' README.md; }
block 2 > "$W/readme_numbers.py"
grep -q '^import msa' "$W/readme_numbers.py" && inside python readme_numbers.py > "$W.out" 2> "$W.err"
check $? "README's Python runs"
block 3 > "$W/readme_learns.py"
if inside python -c 'import torch' 2> /dev/null; then
    grep -q 'msa.torch' "$W/readme_learns.py" && inside python readme_learns.py > "$W.out" 2> "$W.err"
    check $? "README's PyTorch runs"
else
    skip "README's PyTorch" "no Python with PyTorch here"
fi
inside python -m pip --disable-pip-version-check uninstall --quiet --yes msa > "$W.out" 2> "$W.err" && [[ ! -e $site/msa ]]
check $? "pip removes it"
finish
