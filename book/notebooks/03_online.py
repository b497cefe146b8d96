# %% [markdown]
# # Chapter 3: Softmax in pieces
#
# A softmax wants to know all logits before it gives out the first weight. Can attention be computed in one pass over the keys, or
# in pieces that never meet?

# %%
import math

import msa
import numpy as np
from example import noise, plot

N, D = 1000, 16
q, k, v = 3 * noise(D, seed=1), noise(N, D, seed=2), noise(N, D, seed=3)  # peaked: a few keys carry most of the weight
o, lse = (x[0, 0].astype(float) for x in msa.dense(q[None, None], k[:, None], v[:, None], kernel="ref"))
x = k.astype(float) @ q.astype(float) / np.sqrt(D)

# %% [markdown]
# ## One pass
#
# Keep the largest logit so far, the sum of exponentials below it, and the same sum weighted with the values. When the maximum
# rises, what was summed has to be scaled down by $e^{\text{old} - \text{new}}$.


# %%
def online(x, v, rescale=True):
    """The output, its LSE, how often the maximum rose, and the maximum after each key."""
    most, total, acc, rises, path = -math.inf, 0.0, np.zeros(D), 0, []
    for logit, value in zip(x, v.astype(float)):
        if logit > most:
            keep = math.exp(most - logit) if rescale else 1  # exp(-inf) = 0: nothing to keep at first
            total, acc, most, rises = total * keep, acc * keep, logit, rises + 1
        w = math.exp(logit - most)
        total, acc = total + w, acc + w * value
        path.append(most)
    return acc / total, most + math.log(total), rises, path


def equal(a, b, within):
    return "equal" if abs(a - b).max() < within else "DIFFERENT"


one, one_lse, rises, path = online(x, v)
print(f"one pass over {N} keys: output {equal(one, o, 1e-6)}, LSE {one_lse:.4f} {equal(one_lse, lse, 1e-5)}")
print(f"  the maximum rose {rises} times; keys in random order: {sum(1 / j for j in range(1, N + 1)):.1f} expected")
wrong, wrong_lse, _, _ = online(x, v, rescale=False)
print(f"the same without rescaling: output wrong by {abs(wrong - o).max():.2f}, LSE by {abs(wrong_lse - lse):.2f}")
at = [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 999]
plot("The largest logit so far, by keys", at, maximum=[path[i] for i in at])

# %% [markdown]
# ## Pieces
#
# A finished piece needs to leave its output and its log-sum-exp, LSE. The weight of piece $a$ in the whole is
# $e^{\text{LSE}_a - \text{LSE}}$. This is how attention is split over blocks, over processors, and in decoding over the cache.


# %%
def merge(outputs, lses):
    total = np.logaddexp.reduce(lses)
    return np.exp(lses - total) @ outputs, total


cut = [0, 20, 300, N]
pieces = [online(x[a:b], v[a:b]) for a, b in zip(cut, cut[1:])]
outputs, lses = np.array([p[0] for p in pieces]), np.array([p[1] for p in pieces])
merged, total = merge(outputs, lses)
print(f"three pieces, merged by LSE: output {equal(merged, o, 1e-6)}, LSE {equal(total, lse, 1e-5)}")
for a, b, part in zip(cut, cut[1:], lses):
    print(f"  keys {a:3d} to {b - 1:3d}: LSE {part:.4f}, so {100 * math.exp(part - total):4.1f} % of the weight")

# %% [markdown]
# ## What can go wrong
#
# To average the pieces' outputs as if they weighed the same.

# %%
print(f"three pieces, plainly averaged: output wrong by {abs(outputs.mean(0) - o).max():.2f}")

# %% [markdown]
# **Try it.** Sort the keys by their logits, rising: how often does the maximum rise then, and does the result change?
