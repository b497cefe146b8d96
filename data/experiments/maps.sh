#!/usr/bin/env bash
# Selection-frequency maps of the experiments' models on a piece of held-out text, for those that were trained here:
# experiments_maps.sh BUILD. Each picture carries its command in a PNG text chunk as well.
set -u
build=$1
for arm in msa converted no-warmup mean reverse-kl; do
    model=$(data/experiments/run.sh model data/experiments/small.conf data/experiments text $arm 1) || continue
    ln -f "$model" "$build/$arm.safetensors" # a name that tells something in the picture
    "$build/msa" dump --model "$build/$arm.safetensors" --text "$build/kjv.txt" --offset 4190000 --out "$build/maps" > /dev/null || exit 1
    cp "$build/maps/frequency.png" "figures/experiments/frequency_$arm.png"
done
