# %% [markdown]
# # Chapter 1: Attention
#
# Every token of a text looks at every token before it. What does one look compute, and what does it cost?
#
# This notebook asks the chapter's questions in NumPy, on the module `msa` (`pip install ./ref/python`). What it prints is what
# the chapter's program in C prints.

# %%
import msa
import numpy as np
from example import noise, plot

D = 64
q, k, v = (noise(1024, D, seed=seed) for seed in (1, 2, 3))

# %% [markdown]
# ## The smallest thing that works
#
# $O_i = \sum_{j \le i} p_{ij} V_j$, where $p_i$ is the softmax of $Q_i \cdot K_j / \sqrt{d}$. The future is not there: row $i$
# of the mask ends at column $i$.


# %%
def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attend(n):
    """O of the first n tokens, in double, and how many multiply-adds that takes."""
    seen = np.tri(n, dtype=bool)
    x = q[:n].astype(float) @ k[:n].astype(float).T / np.sqrt(D)
    p = softmax(np.where(seen, x, -np.inf))
    return p @ v[:n], 2 * D * int(seen.sum())  # a dot product for each pair, and a sum of values


def heads(x):
    """[T,d] as the one head of [T,1,d], which is what msa takes."""
    return x[:, None]


# %% [markdown]
# ## What it costs
#
# Twice the tokens, four times the work. `msa.dense` is the same attention in C.

# %%
print("tokens   multiply-adds   for each token   against msa_dense")
lengths, works = [128, 256, 512, 1024], []
for n in lengths:
    o, work = attend(n)
    dense, lse = msa.dense(heads(q[:n]), heads(k[:n]), heads(v[:n]), kernel="ref")
    same = "equal" if abs(o - dense[:, 0]).max() < 1e-6 else "DIFFERENT"
    print(f"{n:6d} {work:15d} {work // n:16d}   {same}")
    works.append(work)
plot("Multiply-adds by length", lengths, log=True, attention=works, a_straight_line=[works[0] * n / 128 for n in lengths])

# %% [markdown]
# ## What can go wrong
#
# Without $1/\sqrt{d}$ the logits are so far apart that the softmax takes one key and forgets the others. The number of keys that a
# query spreads over is the exponential of the entropy of its weights.

# %%
print("\nkeys that the last of 1024 queries spreads over")
for name, scale in ("divided by sqrt(d):", 1 / np.sqrt(D)), ("not divided:", 1):
    p = softmax(scale * (k.astype(float) @ q[-1].astype(float)))
    entropy = -(p[p > 0] * np.log(p[p > 0])).sum()
    print(f"  {'logits ' if scale < 1 else ''}{name:{19 if scale < 1 else 26}} {np.exp(entropy):6.1f}")

# %% [markdown]
# And an exponential needs its maximum subtracted: float32 ends near $e^{88.7}$.

# %%
with np.errstate(over="ignore", invalid="ignore"):
    weight = np.exp(np.float32(90))
    print(f"\nexp(90) in float32: {weight:f}; divided by itself: {'not a number' if np.isnan(weight / weight) else 1}")

# %% [markdown]
# **Try it.** How long may a text be until one layer of one head takes a second here? Time `msa.dense` with its default kernel.
