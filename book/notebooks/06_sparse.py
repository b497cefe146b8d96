# %% [markdown]
# # Chapter 6: Attention over the chosen blocks
#
# The blocks are chosen. What is left is ordinary attention over their tokens, exact among these. What is lost, and what must not
# be lost?

# %%
import msa
import numpy as np
from example import noise, plot

N, HQ, HKV, D, BLOCK = 512, 4, 2, 32, 16
G, B = HQ // HKV, N // BLOCK
q, k, v = noise(N, HQ, D, seed=1), noise(N, HKV, D, seed=2), noise(N, HKV, D, seed=3)

# %% [markdown]
# An index that knows something: the sum of the group's queries, and the sum of the keys of both groups.

# %%
q = 3 * q
q[:, 1::G] += np.float32(0.7) * q[:, ::G]  # the second head of a group resembles the first
qi, ki = q.reshape(N, HKV, G, D).sum(2), k.sum(1)
dense, dense_lse = msa.dense(q, k, v, kernel="ref")


def attend(keep):
    ids = msa.index(qi, ki, block=BLOCK, topk=keep, kernel="ref")
    return ids, *msa.sparse(q, k, v, ids, block=BLOCK, kernel="ref")


# %% [markdown]
# ## What is lost
#
# $e^{\text{LSE}_{sparse} - \text{LSE}_{dense}}$ is the part of the full softmax's weight that the chosen blocks hold.

# %%
print(f"{N} tokens in {B} blocks of {BLOCK}; the last 256 queries")
print("blocks kept   weight kept   least   output off by (rms)   tokens read")
budgets, weights = [32, 16, 8, 4, 2], []
for keep in budgets:
    ids, o, lse = attend(keep)
    kept = np.exp(lse[N // 2:].astype(float) - dense_lse[N // 2:])
    off = np.sqrt(((o[N // 2:].astype(float) - dense[N // 2:]) ** 2).mean())
    print(f"{keep:11d} {100 * kept.mean():11.1f} % {100 * min(1, kept.min()):5.0f} % {off:20.4f} {keep * BLOCK:13d}")
    weights.append(kept.mean())
plot("Weight kept, by blocks kept", budgets, index=weights,
     as_many_at_random=[np.minimum(1, keep / (np.arange(N // 2, N) // BLOCK + 1)).mean() for keep in budgets])

# %% [markdown]
# Noise spreads its attention over everything, so much is lost here. A trained model concentrates: chapter 9.
#
# ## What must not be lost
#
# Sparse attention is dense attention with a mask: chosen block, *and* not in the future. The local block holds future tokens.


# %%
def masked(ids, leak=False):
    seen = np.tri(N, dtype=bool) | leak
    o = np.empty((N, HQ, D))
    for h in range(HQ):
        chosen = (ids[h // G][:, :, None] == np.arange(N) // BLOCK).any(1)
        x = q[:, h].astype(float) @ k[:, h // G].astype(float).T / np.sqrt(D)
        w = np.where(chosen & seen, np.exp(x), 0)  # small logits here: no maximum needed
        o[:, h] = w / w.sum(-1, keepdims=True) @ v[:, h // G]
    return o


ids, o, lse = attend(4)
print(f"\n4 blocks, against dense attention with a mask: {'equal' if abs(masked(ids) - o).max() < 1e-5 else 'DIFFERENT'}")
far = abs(masked(ids, leak=True) - o).max((1, 2))
print(f"the same without the mask inside the local block: {(far > 1e-5).sum()} of {N} queries wrong, by up to {far.max():.2f}")

# %% [markdown]
# And no block may count twice. The library looks at every row of ids before it believes them.

# %%
ids[0, -1, 1] = ids[0, -1, 0]
try:
    msa.sparse(q, k, v, ids, block=BLOCK)
except msa.Error as e:
    print(f"a block named twice: {str(e).split(' (T=')[0]}")

# %% [markdown]
# **Try it.** Replace the index by random blocks (ascending, the local one among them). How much weight do 8 blocks keep then?
