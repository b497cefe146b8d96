# %% [markdown]
# # Chapter 5: The choice
#
# A row of block scores, and a budget of $k$ blocks. Which are taken, in which order do they stand, and what if two are equal?
#
# The local block is always taken. The other $k - 1$ go to the highest scores among the blocks before it; among equals the lower id
# wins. The ids ascend, and -1 fills the row.

# %%
import msa
import numpy as np
from example import noise, picture

T, BLOCK, K, D = 1024, 16, 8, 16
B = T // BLOCK
local = np.arange(T) // BLOCK

# %% [markdown]
# ## The smallest thing that works
#
# A stable sort of falling scores keeps lower ids first among equals.


# %%
def choose(m, higher=False):
    """ids [T,K] from scores m [T,B]; `higher` breaks ties the other way."""
    ids = np.full((T, K), -1, np.int32)
    for i, b in enumerate(local):
        blocks = np.arange(b)[::-1] if higher else np.arange(b)
        best = blocks[np.argsort(-m[i, blocks], kind="stable")][:K - 1]
        ids[i, :len(best) + 1] = np.sort([*best, b])
    return ids


def rows_differ(a, b):
    return int((a != b).any(-1).sum())


# %% [markdown]
# ## By scores, or by probabilities?
#
# The exponential keeps the order, so the choice needs none. In float32 it does not even keep the order: far below the maximum all
# weights are 0, and equal.

# %%
print(f"{T} rows, the best {K} of up to {B} blocks; rows that differ from the ranking of raw scores:")
print("  scores up to   own loop   by exp in float32   by exp in double   blocks with weight 0 in float32")
qi, ki = noise(T, 1, D, seed=1), noise(T, D, seed=2)
visible = np.arange(B) <= local[:, None]
for sharp in 1, 8, 64:
    m = msa.scores(qi * np.float32(sharp), ki, block=BLOCK, kernel="ref")
    reference = msa.topk(m, n_kv=T, block=BLOCK, topk=K, kernel="ref")[0]
    e = np.exp(m[0].astype(float) - m[0].max(-1, keepdims=True))
    with np.errstate(under="ignore"):
        single = e.astype(np.float32)
    zero = 100 * (visible & (single == 0)).sum() / visible.sum()
    print(f"  {m[0][visible].max():12.0f} {rows_differ(choose(m[0]), reference):10d} {rows_differ(choose(single), reference):19d} "
          f"{rows_differ(choose(e), reference):18d} {zero:29.0f} %")

# %% [markdown]
# ## Ties
#
# Small integers have exact dot products anywhere, and often equal ones. Two implementations that agree on everything but the rule
# for ties disagree in most rows here.

# %%
qi, ki = (np.sign(x) * np.floor(abs(x) + np.float32(0.5)) for x in (noise(T, 1, D, seed=3), noise(T, D, seed=4)))
m = msa.scores(qi, ki, block=BLOCK, kernel="ref")
reference = msa.index(qi, ki, block=BLOCK, topk=K, kernel="ref")[0]
print(f"\nsmall integers, ties to the lower  id: {rows_differ(choose(m[0]), reference)} rows differ from msa_index")
print(f"small integers, ties to the higher id: {rows_differ(choose(m[0], higher=True), reference)} rows differ from msa_index")
print(f"\nrow 5 (too early for {K} blocks):", *reference[5])
print(f"row {T - 1}:", *reference[-1])
chosen = np.where(visible, (np.arange(B)[None, None] == reference[:, :, None]).any(1), np.nan)
picture("Chosen blocks; every sixteenth query", chosen[::16])

# %% [markdown]
# **Try it.** Every kernel follows the same rule: compare `msa.index(qi, ki, block=16, topk=8)`, the fast path, with `reference`.
