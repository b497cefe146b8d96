# %% [markdown]
# # Chapter 8: How the selector learns
#
# The choice of blocks has no gradient: move a weight of the index a little, and the output does not move at all. How can the
# selector learn then?
#
# By a loss of its own. The attention of the group's heads is the teacher, a mean of probabilities; the softmax of the index scores
# is the student; $L_{KL}$ is what the student has not learned. It reaches the two matrices of the index and nothing else.

# %%
import msa
import numpy as np
from example import noise, plot

T, BLOCK, K, HQ, HKV, DH, DI, D, SUBJECTS, STEPS, WARMUP, RATE = 128, 4, 4, 4, 2, 8, 8, 16, 8, 240, 80, np.float32(0.5)

# %% [markdown]
# ## A selector that is small enough to train while one waits
#
# Every block has two subjects out of 8. The heads of group 0 look for tokens of the same first subject, those of group 1 for the
# same second one.

# %%
subject, x, state = noise(SUBJECTS, D, seed=1), noise(T, D, seed=2), 3
for b in range(T // BLOCK):
    for half in (slice(0, DH), slice(DH, D)):
        state = (state * 1664525 + 1013904223) % 2**32
        rows = slice(b * BLOCK, (b + 1) * BLOCK)
        x[rows, half] = subject[state >> 29, half] + np.float32(0.5) * x[rows, half]
k = x.reshape(T, HKV, DH)
q = k.repeat(2, 1) * np.array([0.75, 1.5, 0.75, 1.5], np.float32)[:, None]  # two heads a group, one keener than the other
times = lambda a, b: (a.astype(float) @ b).astype(np.float32)


class Selector:
    def __init__(self):
        self.wiq, self.wik = np.float32(0.1) * noise(D, HKV * DI, seed=4), np.float32(0.1) * noise(D, DI, seed=5)
        self.select()

    def select(self):
        self.qi, self.ki = times(x, self.wiq).reshape(T, HKV, DI), times(x, self.wik)
        self.ids = msa.index(self.qi, self.ki, block=BLOCK, topk=K, kernel="ref")

    def loss(self, ids):
        """L_KL over the chosen blocks, or with None over all visible keys; and its gradients of both matrices."""
        loss, dqi, dki = msa.kl(q, k, self.qi, self.ki, ids, block=BLOCK, kernel="ref")
        return loss, times(x.T, dqi.reshape(T, -1)), times(x.T, dki)

    def step(self, ids):
        _, dwiq, dwik = self.loss(ids)
        self.wiq, self.wik = self.wiq - RATE * dwiq, self.wik - RATE * dwik


# %% [markdown]
# ## What a weight does to the output: a staircase

# %%
v, weight = noise(T, HKV, DH, seed=6), noise(T, HQ, DH, seed=7)
output_loss = lambda t: float((weight.astype(float) * msa.sparse(q, k, v, t.ids, block=BLOCK, kernel="ref")[0]).sum() / T)
t = Selector()
start, kl, before, old = output_loss(t), t.loss(None)[0], t.ids, t.wiq[0, 0]
print("a weight of Wiq moves by   selections changed   change of the output's loss   of the KL loss")
for by in 1e-4, 1e-3, 1e-2, 1e-1:
    t.wiq[0, 0] = old + np.float32(by)
    t.select()
    moved = output_loss(t) - start
    print(f"{by:25.0e} {(t.ids != before).any(-1).sum():15d}/{HKV * T} {moved:29.2f}" if moved else
          f"{by:25.0e} {(t.ids != before).any(-1).sum():15d}/{HKV * T} {'0':>29}", f"{t.loss(None)[0] - kl:16.1e}")

# %% [markdown]
# ## The gradient, by hand and by two losses

# %%
print("\na weight's gradient        by hand   by two losses")
for name, full in ("all visible keys", True), ("chosen blocks", False):
    t, two = Selector(), []
    ids, (old, by) = None if full else t.ids, (t.wiq[0, 0], np.float32(1e-2))
    hand = t.loss(ids)[1][0, 0]
    for t.wiq[0, 0] in old - by, old + by:
        t.qi = times(x, t.wiq).reshape(T, HKV, DI)
        two.append(t.loss(ids)[0])
    print(f"  {name:17} {hand:15.5f} {(two[1] - two[0]) / (2 * float(by)):15.5f}")
t = Selector()
for name, ids in ("all visible", None), ("chosen blocks", t.ids[:, -1:]):
    dki = msa.kl(q[-1:], k, t.qi[-1:], t.ki, ids, block=BLOCK, kernel="ref")[2]
    print(f"  keys that the last query's loss reaches, {name}: {(dki != 0).any(-1).sum()} of {T}")

# %% [markdown]
# ## With and without warmup
#
# On the chosen blocks alone the selector learns only about what it already chose. So it begins with all visible keys.

# %%
curves = {}
for warmup, name in (STEPS, "all visible keys throughout"), (WARMUP, "80 steps so, then chosen blocks"), (0, "chosen blocks throughout"):
    t, curve = Selector(), []
    print(f"\n{name:32}    L_KL on    L_KL on     block    score\n{'step':>32}    all keys   its blocks   recall   recall")
    for step in range(STEPS + 1):
        t.select()
        if step % WARMUP == 0 or step == 20:
            _, block, score = msa.recall(q, k, t.ids, block=BLOCK)
            curve.append(t.loss(None)[0])
            print(f"{step:32d} {curve[-1]:11.2f} {t.loss(t.ids)[0]:12.2f} {block:8.2f} {score:8.2f}")
        t.step(None if step < warmup else t.ids)
    curves[name.replace(" ", "_")] = curve
plot("L_KL on all keys, by steps", [0, 20, 80, 160, 240], **curves)

# %% [markdown]
# **Try it.** `msa.torch.MSAttention` is a layer of this kind in PyTorch, with the same two stages; README shows ten steps of it.
