# %% [markdown]
# # Chapter 9: Watching a trained selector
#
# A small model was trained on a real text. Where does its index look, on 768 bytes that it has never seen, and does it find what
# full attention weighs most?

# %%
import json
import re

import msa
import numpy as np
from example import ROOT, picture

# %% [markdown]
# ## The model
#
# Its file is a safetensors file: a length, a header in JSON, and the weights. The layers are those of chapter 8, with norms, rotary
# positions and an MLP.

# %%
data = (ROOT / "data" / "kjv-msa.safetensors").read_bytes()
size = 8 + int.from_bytes(data[:8], "little")
header = json.loads(data[8:size])
c = {name: float(x) for name, x in header.pop("__metadata__").items() if name != "format"}
w = {name: np.frombuffer(data, "<f4", np.prod(t["shape"]), size + t["data_offsets"][0]).reshape(t["shape"]) for name, t in header.items()}
LAYERS, BLOCK, K, DH, DI = (int(c[name]) for name in ("n_layers", "block", "topk", "d_head", "d_index"))
passage = re.sub(r'(?s).*passage\[\] =\s*"|";.*', "", (ROOT / "book" / "examples" / "passage.h").read_text())
text = np.frombuffer(re.sub(r'"\s*"', "", passage).replace("\\n", "\n").encode(), np.uint8)
T = len(text) - 1  # the last byte is only predicted


def heads(x, w, gain, d):
    """Projected, normed, rotated: [T,heads,d]."""
    return msa.rope(msa.rmsnorm((x @ w).reshape(T, -1, d), gain, c["eps"]), d // 2, c["theta"])


def layer(h, l):
    """The next residual stream, and what the layer attended with."""
    p = {name.split(".", 2)[2]: x for name, x in w.items() if name.startswith(f"layers.{l}.")}
    x = msa.rmsnorm(h, p["attn_norm"], c["eps"])
    q, k = heads(x, p["wq"], p["q_norm"], DH), heads(x, p["wk"], p["k_norm"], DH)
    qi, ki = heads(x, p["wiq"], p["iq_norm"], DI), heads(x, p["wik"], p["ik_norm"], DI)[:, 0]
    ids = msa.index(qi, ki, block=BLOCK, topk=K, kernel="ref")
    h = h + msa.sparse(q, k, (x @ p["wv"]).reshape(k.shape), ids, block=BLOCK)[0].reshape(T, -1) @ p["wo"]
    z = msa.rmsnorm(h, p["mlp_norm"], c["eps"])
    gate = z @ p["w_gate"]
    return h + (gate / (1 + np.exp(-gate)) * (z @ p["w_up"])) @ p["w_down"], (q, k, ids)


h, seen = w["embed"][text[:T]], []
for l in range(LAYERS):
    h, attended = layer(h, l)
    seen.append(attended)
logits = (msa.rmsnorm(h, w["norm"], c["eps"]) @ w["head"]).astype(float)
logits -= logits.max(-1, keepdims=True)
loss = (np.log(np.exp(logits).sum(-1)) - logits[np.arange(T), text[1:]]).mean() / np.log(2)
print(f"{T} bytes in blocks of {BLOCK}, {K} of up to {T // BLOCK} kept; {loss:.2f} bits per byte\n")

# %% [markdown]
# ## Does it find what attention weighs most?
#
# Beside it two choices that need no index: random blocks, and the nearest ones.


# %%
def uniform(seed, n):
    """Numbers 0 to n-1 of stream `seed`, in [0,1): SplitMix64, as in ref/random.h."""
    z = np.uint64(seed * 0xD1342543DE82EF95 % 2**64) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


def random_ids(seed, groups=2):
    ids, draw = np.full((groups, T, K), -1, np.int32), iter(uniform(seed, groups * T * T // BLOCK))
    for row, local in zip(ids.reshape(-1, K), np.tile(np.arange(T) // BLOCK, groups)):
        left, n = min(K - 1, local), 0
        for b in range(local):
            if next(draw) * (local - b) < left:
                row[n], n, left = b, n + 1, left - 1
        row[n] = local
    return ids


local = np.arange(T) // BLOCK
nearest = np.maximum(local - K + 1, 0)[:, None] + np.arange(K)
nearest = np.where(nearest <= local[:, None], nearest, -1)[None].repeat(2, 0)
print("                  chosen by the index   random blocks     nearest blocks\n"
      "layer  group         block   score    block   score    block   score")
table = []
for l, (q, k, ids) in enumerate(seen):
    recalls = [msa.recall_of_queries(q, k, x, block=BLOCK)[..., K * BLOCK:].mean(-1, dtype=float) for x in (ids, random_ids(l + 1), nearest)]
    for group in range(2):
        table.append(np.array(recalls)[:, :, group])
        print(f"{l:5d} {group:6d}     ", *(f"{block:8.2f} {score:7.2f}" for block, score in table[-1]))
print("         mean    ", *(f"{block:8.2f} {score:7.2f}" for block, score in np.mean(table, 0)))

# %% [markdown]
# ## Where it looks
#
# Of the queries of a block, how many chose each block of keys? Layer 0 comes back to certain blocks, columns in the map; layer 2
# stays near the query.

# %%
for l in 0, 2:
    counts = np.stack([(seen[l][2] == b).any(-1).reshape(2, -1, BLOCK).mean(-1) for b in range(T // BLOCK)], -1)
    counts[:, ~np.tri(T // BLOCK, dtype=bool)] = np.nan
    for group in range(2):
        picture(f"layer {l}, group {group}", counts[group, K:])
    print(f"\nlayer {l}    group 0 {'':{T // BLOCK - 5}} group 1")
    for row in range(K, T // BLOCK):
        line = lambda group: "".join(" " if np.isnan(x) else " .:o#"[int(x * BLOCK * 4 + BLOCK - 1) // BLOCK] for x in counts[group, row])
        print(f"queries {row:2d} {line(0)}    {line(1)}")

# %% [markdown]
# **Try it.** The same questions of a MiniMax-M3 of Hugging Face transformers: `print(msa.watch(model, tokens))`.
