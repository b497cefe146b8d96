# %% [markdown]
# # Chapter 4: The index branch
#
# Attention gives most of its weight to few keys. Can something much cheaper say where it is going to look?
#
# MSA adds a small attention whose only task is to choose. A block of keys is as good as its best visible token:
# $m_{r,i,b} = \max_{j \in b,\, j \le p(i)} Q^{idx}_{i,r} \cdot K^{idx}_j / \sqrt{d_{idx}}$.

# %%
import msa
import numpy as np
from example import noise, picture

T, R, D, BLOCK, K = 500, 2, 32, 32, 4
B = -(-T // BLOCK)
qi, ki = noise(T, R, D, seed=1), noise(T, D, seed=2)

# %% [markdown]
# ## The smallest thing that works
#
# Dot products, the mask, the maximum. The channels are added in order, as the reference does, so that the numbers are the same to
# the last bit.

# %%
s = np.zeros((R, T, T))
for c in range(D):
    s += qi[:, :, c].T[:, :, None].astype(float) * ki[None, None, :, c]
s /= np.sqrt(D)
token, block = np.arange(T), np.arange(T) // BLOCK


def pool(seen):
    return np.maximum.reduceat(np.where(seen, s, -np.inf), range(0, T, BLOCK), -1)


early = pool(token[None, :] <= token[:, None])  # the mask acts on tokens, before the pool
found = msa.scores(qi, ki, block=BLOCK, kernel="ref")
print(f"{T} queries in {R} groups, {B} blocks of {BLOCK} (the last holds {T - (B - 1) * BLOCK} tokens)")
print(f"rows of block scores equal to msa_index: {(early.astype(np.float32) == found).all(-1).sum()} of {R * T}")
low, high = np.nanpercentile(np.where(np.isinf(found), np.nan, found), [1, 99])
picture("Block scores of group 0; every tenth query", np.where(np.isinf(found), np.nan, ((found - low) / (high - low)).clip(0, 1))[0, ::10])

# %% [markdown]
# ## What can go wrong: the mask after the pool
#
# Whoever takes the maxima of whole blocks and then removes the future blocks lets the local block answer with tokens that the query
# must not see.

# %%
late = pool(block[None, :] <= block[:, None])
own = lambda m: np.take_along_axis(m, np.broadcast_to(block[None, :, None], (R, T, 1)), -1)[..., 0]
past = np.arange(B)[None] < block[:, None]
rank = lambda m: (past & (early >= own(m)[..., None])).sum(-1)
leaks, wins = own(late) > own(early), (rank(late) < K) & (rank(early) >= K)
print(f"\nmask after the pool: the local block's score comes from the future in {leaks.sum()} of {R * T} rows")
print(f"  and would be among the best {K} only because of that in {wins.sum()}")

# %% [markdown]
# ## Why the maximum, and not the mean
#
# One key that answers the query hides among 31 others. The mean drowns it.

# %%
print(f"\none good key hidden among {BLOCK}: how often is its block the best of {B}?")
print("  strength   maximum   mean")
trials = []
for seed in range(1, 201):
    query = noise(D, seed=seed).astype(float)
    keys = np.array([noise(BLOCK, D, seed=seed * 100 + b) for b in range(B)]).astype(float)
    trials.append((seed % B, keys @ query, query @ query))
for strength in 0.5, 1.0, 1.5, 2.0:
    hits = np.zeros(2, int)
    for where, scores, norm in trials:
        scores = scores.copy()
        scores[where, 7] += strength * norm
        hits += [scores.max(-1).argmax() == where, scores.mean(-1).argmax() == where]
    print(f"  {strength:8.1f} {hits[0] // 2:7d} % {hits[1] // 2:4d} %")

# %% [markdown]
# **Try it.** Blocks of 8, 16, 64 in place of 32: from which strength on does the mean find the key?
