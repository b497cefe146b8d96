# %% [markdown]
# # Chapter 7: What it costs
#
# The paper says that MSA takes 28.4 times less arithmetic than dense attention at a million tokens. Where does the number come
# from, and how far may a model of cost be trusted?

# %%
import math

import msa
import numpy as np
from example import plot

heads, index_heads, kept = 64 * 128, 4 * 128, 16 * 128  # MiniMax-M3: channels of query heads and index heads, tokens read

# %% [markdown]
# ## The model
#
# Dense: half of $N^2$ pairs, 4 operations a channel. The index: the same pairs, 2 operations a channel, few heads, no values. The
# blocks: $k B_k$ pairs a token. `msa.cost` says the same.


# %%
def model(n):
    return 2.0 * heads * n * n, 1.0 * index_heads * n * n, 4.0 * heads * n * kept


print("tokens    dense GQA      MSA index   MSA blocks   ratio   index share")
for n in (2**a for a in range(12, 21, 2)):
    gqa, index, blocks = model(n)
    row = msa.cost(n)
    if gqa != row["flop_gqa"] or index + blocks != row["flop_msa"]:
        print("msa_cost says otherwise")
    print(f"{n:7d} {gqa:11.3e} {index:14.3e} {blocks:12.3e} {row['flop_ratio']:7.2f} {100 * row['index_share']:11.0f} %")
print(f"without end: {2 * heads / index_heads:.0f}")
print(f"cheaper than dense from {math.ceil(4 * heads * kept / (2 * heads - index_heads))} tokens on; the index is half of it at "
      f"{4 * heads * kept / index_heads:.0f}")
lengths = [2**a for a in range(12, 21)]
dense, index, blocks = zip(*map(model, lengths))
plot("Operations by tokens", lengths, log=True, dense=dense, index=index, blocks=blocks)

# %% [markdown]
# ## How far it may be trusted
#
# The model says half of $N^2$, and gives every query all its blocks. Counted pair by pair, early queries have fewer blocks, and the
# local block ends at the query.

# %%
print("\ncounted pair by pair, operations and model over count")
for n in (2**a for a in range(12, 21, 4)):
    p = np.arange(n)
    support = (np.minimum(p // 128 + 1, 16) - 1) * 128 + p % 128 + 1  # the local block is only filled up to p
    gqa = 4.0 * heads * (p + 1).sum()
    counted = 2.0 * index_heads * (p + 1).sum() + 4.0 * heads * support.sum()
    row = msa.cost(n)
    print(f"{n:7d} tokens: GQA {row['flop_gqa'] / gqa:.4f}, MSA {row['flop_msa'] / counted:.4f}, ratio {gqa / counted:.2f} instead of "
          f"{row['flop_ratio']:.2f}")

# %% [markdown]
# ## Prefill and decoding, and index keys of 8 bits
#
# *Same ids*: 8 bits with a bound say which blocks are not settled, and these are scored again in 16 bits.

# %%
print("\ndense over MSA    prefill, by operations           decode, by bytes\n"
      "index keys of  16 bits   8 bits  same ids    16 bits   8 bits  same ids")
for n in (2**a for a in range(15, 21)):
    row = msa.cost(n)
    print(f"{n:7d} {row['flop_ratio']:14.2f} {row['flop_ratio_8']:8.2f} {row['flop_ratio_exact8']:9.2f} {row['bytes_ratio']:10.2f} "
          f"{row['bytes_ratio_8']:8.2f} {row['bytes_ratio_exact8']:9.2f}")
print(f"scored again at 1048576: {row['flop_settle'] / 1e12:.1f} TFLOP beside {row['flop_msa'] * row['index_share'] / 2e12:.0f} of the "
      f"index; {row['bytes_settle'] / 1e6:.1f} MB beside {128 * 1048576 / 1e6:.0f}")
print("\nbytes read to decode one token at 1048576, one layer")
print(f"  dense GQA {row['bytes_gqa'] / 2**20:10.1f} MiB\n  MSA       {row['bytes_msa'] / 2**20:10.1f} MiB, of which index keys "
      f"{2 * 128:.1f}\n  ratio {row['bytes_ratio']:.2f}; with index keys of one byte {row['bytes_ratio_8']:.2f}")

# %% [markdown]
# **Try it.** `msa.cost(n, topk=8)`, `block=64`, `n_kv_heads=8`: which of them moves the ratio at a million tokens, and which the
# length from which on MSA is cheaper?
