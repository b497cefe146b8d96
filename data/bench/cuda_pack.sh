#!/usr/bin/env bash
# Packs what `make gpu` needs beside a driver into $B/msa-gpu.tar: the program and the test of instructions, the libraries that
# these find here (the C library is the other machine's own), and the scripts. There:
#
#     tar xf msa-gpu.tar && cd msa-gpu && data/bench/cuda.sh
set -eu
cd "$(dirname "$0")/../.."
B=${B:-build} to=$B/msa-gpu
rm -rf "$to"
mkdir -p "$to/build/tests" "$to/build/lib" "$to/data/bench/peers"
cp "$B/msa" "$to/build/"
cp "$B/tests/test_instructions" "$to/build/tests/"
ldd "$B/msa" | sed -nE '/\/(libc|libm|libdl|librt|libpthread|ld-linux[^/]*)\.so/!s/.*=> (\/[^ ]*) .*/\1/p' | xargs -r cp -Lt "$to/build/lib"
cp data/bench/cuda*.sh data/bench/cuda_targets.txt "$to/data/bench/"
cp data/bench/peers/gpu.py "$to/data/bench/peers/"
# Where it was broken off there, it goes on there.
for file in data/bench/cuda.tsv data/bench/*.*-*.json; do
    [[ ! -e $file ]] || cp "$file" "$to/data/bench/"
done
tar -C "$B" -cf "$B/msa-gpu.tar" msa-gpu
rm -r "$to"
echo "wrote $B/msa-gpu.tar"
