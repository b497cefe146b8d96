"""What the rounding of rotary angles to float32 does to a layer of MiniMax-M3's heads: prints a table, in Markdown.

    python3 data/checkpoint/angles.py [build/msa]     # needs NumPy

A random layer (random_m3.py) reads 2048 hidden states at positions that end at N, once with angles as models hold
them and once with exact ones."""
import os
import subprocess
import sys
import tempfile

import numpy as np

sys.dont_write_bytecode = True
import random_m3

TOKENS, GROUPS = 2048, 2
msa = sys.argv[1] if len(sys.argv) > 1 else "build/msa"


def layer(home, end, name, *more):
    np.save(f"{home}/positions.npy", np.arange(end - TOKENS, end, dtype=np.int32))
    subprocess.run([msa, "layer", "--checkpoint", home, "--layer", "0", "--hidden", f"{home}/x.npy", "--positions", f"{home}/positions.npy",
                    "--out", f"{home}/{name}{end}", *more], check=True, capture_output=True)
    return [np.load(f"{home}/{name}{end}/{file}.npy") for file in ("q", "ids", "y")]


def off(a, b):
    return abs(a - b) / abs(b).max()


with tempfile.TemporaryDirectory() as home:
    random_m3.write(random_m3.parse(f"{home} --layers 1 --d-model 512 --d-head 128 --d-index 128 --rotary 64 --tokens {TOKENS}".split()))
    print(f"| positions up to | q off by | y off by, median row | of {TOKENS * GROUPS} rows choose otherwise |\n|--:|--:|--:|--:|")
    for end in (2048, 4096, 32768, 131072, 524288, 1048576):
        (q, ids, y), (exact_q, exact_ids, exact_y) = layer(home, end, "model"), layer(home, end, "exact", "--exact-angles")
        print(f"| {end >> 10}K | {off(q, exact_q).max():.1e} | {np.median(off(y, exact_y).max(1)):.1e} | {(ids != exact_ids).any(-1).sum()} |")
