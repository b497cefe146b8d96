# %% [markdown]
# # Chapter 2: Groups
#
# A layer has many query heads. If each had keys and values of its own, the cache would hold them all. How many can share?

# %%
import msa
import numpy as np
from example import noise, plot

T, HQ, HKV, D = 200, 8, 2, 32
q, k, v = noise(T, HQ, D, seed=1), noise(T, HKV, D, seed=2), noise(T, HKV, D, seed=3)

# %% [markdown]
# ## The smallest thing that works
#
# Head $h$ reads the keys and values of group $r = \lfloor h / G \rfloor$: neighbours share. That is the same as to give every head
# a copy. Whoever takes $r = h \bmod H_{kv}$ instead gets numbers too, and no error.

# %%
grouped = msa.dense(q, k, v, kernel="ref")[0]
rules = {"/ G  ": np.arange(HQ) // (HQ // HKV), "% Hkv": np.arange(HQ) % HKV}
for name, r in rules.items():
    copied = msa.dense(q, k[:, r], v[:, r], kernel="ref")[0]
    print(f"{HQ} query heads on {HKV} key-value heads against a copy for each, r = h {name}: largest difference "
          f"{abs(copied - grouped).max():.2f}")

# %% [markdown]
# ## What it saves
#
# Each token leaves $2 H_{kv} d$ numbers in the cache. All query heads of a group work on what was read once, so the operations for
# each byte grow with the group: that is what makes decoding on a GPU bearable.

# %%
print("\nkeys and values of one layer, 64 query heads of 128, 2 bytes a number")
print("key-value heads   bytes a token   at 1M tokens   operations a byte, decoding")
counts = [64, 16, 4, 1]
tokens = [2 * n * 128 * 2 for n in counts]  # K and V
for n, token in zip(counts, tokens):
    operations = 4 * 64 * 128  # of a query token with one key token, all heads
    print(f"{n:15d} {token:15d} {token * 2**20 / 2**30:10.1f} GiB {operations / token:29.1f}")
plot("GiB of one layer's cache at a million tokens", counts, log=True, GiB=[token / 1024 for token in tokens])

# %% [markdown]
# ## What can go wrong
#
# Heads that do not divide into groups. The library refuses them, and the module passes its sentence on as `msa.Error`.

# %%
try:
    msa.dense(q, k[:, [0, 1, 1]], v[:, [0, 1, 1]])
except msa.Error as e:
    print(f"\n8 query heads on 3 key-value heads: {str(e).split(' (T=')[0]}")

# %% [markdown]
# **Try it.** MiniMax-M3 has 64 query heads on 4. What would its cache hold at a million tokens with one group, and what does the
# index add (256 bytes a token and layer)?
