#!/bin/sh
# Rebuilds figures/gallery: gallery.sh BUILD. Each picture carries its command in a PNG text chunk as well.
set -eu
build=$1
out=$build/gallery
mkdir -p figures/gallery
offset=4190000 # in the held-out end of the text: the epistles
"$build/msa" dump --model data/kjv-msa.safetensors --text "$build/kjv.txt" --offset $offset --out "$out"
cp "$out"/frequency.png "$out"/layer0[0-9]_group[0-9].png figures/gallery/
for kernel in dense/hopper sparse/union sparse/kv_outer index/fused; do
    "$build/msa" timeline $kernel --out figures/gallery/timeline_$(echo $kernel | tr / _).png
done
set -- data/bench/*.json
if [ -e "$1" ]; then
    for picture in roofline speedup; do # each needs results of its own, and says so where there are none
        "$build/msa" results "$@" --$picture figures/gallery/$picture.png > /dev/null || echo "no $picture"
    done
else
    echo "no roofline and no speedup: data/bench holds no measurements"
fi
