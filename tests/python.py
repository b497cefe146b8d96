"""ref/msa.py against formulas written in NumPy, in double. Prints TAP; tests/test_python.sh runs it."""
import os
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "ref"))
import msa

T, S, HQ, HKV, D, DI, BLOCK, K = 150, 300, 32, 2, 32, 16, 16, 4
G = HQ // HKV
rng = np.random.default_rng(1)
draw = lambda *sizes: rng.standard_normal(sizes).astype(np.float32)
q, k, v, qi, ki, dout = draw(T, HQ, D), draw(S, HKV, D), draw(S, HKV, D), draw(T, HKV, DI), draw(S, DI), draw(T, HQ, D)
pos = np.arange(S - T, S)
seen = np.arange(S)[None] <= pos[:, None]
n = failed = 0


def check(ok, name):
    global n, failed
    n, failed = n + 1, failed + (not ok)
    print(f"{'ok' if ok else 'not ok'} {n} - {name}")


def skip(name, why):
    global n
    n += 1
    print(f"ok {n} - {name} # SKIP {why}")


def softmax(x):
    m = x.max(-1, keepdims=True)
    e = np.exp(x - m)
    return e / e.sum(-1, keepdims=True), (m + np.log(e.sum(-1, keepdims=True)))[..., 0]


def attend(allowed):
    """o and lse for allowed[Hkv,T,S], in double."""
    o, lse = np.empty((T, HQ, D)), np.empty((T, HQ))
    for h in range(HQ):
        x = q[:, h].astype(float) @ k[:, h // G].astype(float).T / D**0.5
        p, lse[:, h] = softmax(np.where(allowed[h // G], x, -np.inf))
        o[:, h] = p @ v[:, h // G]
    return o, lse


# What float32 may lose: ref/cli/verdict.c derives it.
norm = lambda x: np.sqrt((x.astype(float) ** 2).sum(-1).max())
error = 2.0**-24 * (2 * norm(q) * norm(k) + 8 + S / 4)
close = lambda found, right, scale=1.0: bool((abs(found - right) <= error * scale + 2**-22 * abs(right).max()).all())

scores = np.full((HKV, T, S), -np.inf)
for r in range(HKV):
    scores[r] = np.where(seen, qi[:, r].astype(float) @ ki.astype(float).T, -np.inf)
blocks = -(-S // BLOCK)
pooled = np.full((HKV, T, blocks), -np.inf)
for b in range(blocks):
    pooled[:, :, b] = scores[:, :, b * BLOCK:(b + 1) * BLOCK].max(-1)
right = np.full((HKV, T, K), -1, np.int32)
for r in range(HKV):
    for i in range(T):
        local = pos[i] // BLOCK
        order = sorted(range(local), key=lambda b: (-pooled[r, i, b], b))[: K - 1]
        row = sorted(order + [local])
        right[r, i, : len(row)] = row
chosen = np.zeros((HKV, T, S), bool)
for r in range(HKV):
    for i in range(T):
        for b in right[r, i][right[r, i] >= 0]:
            chosen[r, i, b * BLOCK:(b + 1) * BLOCK] = True
chosen &= seen

for kernel in "fast", "ref":
    o, lse = msa.dense(q, k, v, kernel=kernel)
    want = attend(np.broadcast_to(seen, chosen.shape))
    check(close(o, want[0], abs(v).max()) and close(lse, want[1]), f"dense, {kernel}")
    check((msa.index(qi, ki, block=BLOCK, topk=K, kernel=kernel) == right).all(), f"index, {kernel}")
    m = msa.scores(qi, ki, block=BLOCK, kernel=kernel)
    check(np.allclose(m, pooled / DI**0.5, atol=2.0**-24 * norm(qi) * norm(ki)), f"scores, {kernel}")
    check((msa.topk(m, n_kv=S, block=BLOCK, topk=K, kernel=kernel) == right).all(), f"topk, {kernel}")
    ids, o, lse = msa.decode(q[-3:], k, v, qi[-3:], ki, block=BLOCK, topk=K, kernel=kernel)
    o2, lse2 = attend(chosen)
    check((ids == right[:, -3:]).all() and close(o, o2[-3:], abs(v).max()) and close(lse, lse2[-3:]), f"decode, {kernel}")
    o, lse = msa.dense_decode(q[-3:], k, v, kernel=kernel)
    check(close(o, want[0][-3:], abs(v).max()) and close(lse, want[1][-3:]), f"dense_decode, {kernel}")
    order = rng.permutation(blocks + 2)[:blocks].astype(np.int32)  # page of each block
    paged = lambda x: np.stack([np.vstack([x, x])[list(order).index(b) * BLOCK:][:BLOCK] if b in order else x[:BLOCK]
                                for b in range(blocks + 2)])
    cache = [paged(x) for x in (k, v)], (order[None], np.array([S], np.int32)), paged(ki)
    o, lse = msa.decode_pages(q[None, -3:], *cache[0], *cache[1], kernel=kernel)
    check(close(o[0], want[0][-3:], abs(v).max()) and close(lse[0], want[1][-3:]), f"dense decode over pages, {kernel}")
    ids, o, lse = msa.decode_pages(q[None, -3:], *cache[0], *cache[1], qi[None, -3:], cache[2], topk=K, kernel=kernel)
    check((ids == right[:, -3:]).all() and close(o[0], o2[-3:], abs(v).max()) and close(lse[0], lse2[-3:]),
          f"decode over pages, {kernel}")
    half = [x.reshape(2 * len(x), BLOCK // 2, *x.shape[2:]) for x in (*cache[0], cache[2])]
    table = np.stack([2 * order, 2 * order + 1], 1).reshape(1, -1)
    table, lens = np.vstack([table, table]), np.array([S, 0], np.int32)
    ids, o, lse = msa.decode_pages(np.stack([q[-3:]] * 2), *half[:2], table, lens, np.stack([qi[-3:]] * 2), half[2], block=BLOCK,
                                   topk=K, kernel=kernel)
    check((ids[:, :3] == right[:, -3:]).all() and close(o[0], o2[-3:], abs(v).max()) and close(lse[0], lse2[-3:]) and
          (ids[:, 3:] == -1).all() and (o[1] == 0).all() and (lse[1] == -np.inf).all(),
          f"decode over half pages, and a request without tokens, {kernel}")
    ids, o, lse = msa.prefill(q, k, v, qi, ki, block=BLOCK, topk=K, kernel=kernel)
    check((ids == right).all() and close(o, o2, abs(v).max()) and close(lse, lse2), f"prefill, {kernel}")
names = [name for name, _, _ in msa.kernels() if name.startswith("sparse/")]
check(len(names) >= 6, f"{len(msa.kernels())} kernels")
for name in names:
    o, lse = msa.sparse(q, k, v, right, block=BLOCK, kernel=name)
    check(close(o, o2, abs(v).max()) and close(lse, lse2), name)

fast, ref = (msa.backward(q, k, v, dout, right, block=BLOCK, kernel=x) for x in ("fast", "ref"))
check(all(np.abs(a - b).max() <= 1e-4 * np.abs(b).max() for a, b in zip(fast, ref)), "backward: fast and reference")
fast, ref = (msa.kl(q, k, qi, ki, right, block=BLOCK, kernel=x) for x in ("fast", "ref"))
check(all(np.abs(a - b).max() <= 1e-4 * np.abs(b).max() for a, b in zip(fast, ref)), "kl: fast and reference")
for name in "tiles", "blocks":
    found = msa.backward(q, k, v, dout, right, o=o2, lse=lse2, block=BLOCK, kernel="backward/" + name)
    want = msa.backward(q, k, v, dout, right, block=BLOCK, kernel="ref")
    check(all(np.abs(a - b).max() <= 1e-4 * np.abs(b).max() for a, b in zip(found, want)), "backward/" + name)
    found = msa.kl(q, k, qi, ki, right, block=BLOCK, kernel="kl/" + name)
    check(all(np.abs(a - b).max() <= 1e-4 * np.abs(b).max() for a, b in zip(found, ref)), "kl/" + name)
first, entries, items = msa.reverse(right, n_kv=S, block=BLOCK)
check(first[0, -1] == (right[0] >= 0).sum() and entries[0, 0] >> 5 == np.argwhere((right[0] == 0).any(1))[0, 0], "reverse")
rows, block_recall, score_recall = msa.recall(q, k, right, block=BLOCK)
check(rows > 0 and 0 < block_recall <= 1 and 0 < score_recall <= 1, "recall")
bits = lambda x: (x.view(np.uint32) >> 16).astype(np.uint16)
cut = lambda x: (bits(x).astype(np.uint32) << 16).view(np.float32)
half = msa.decode(q[-1:], bits(k), bits(v), qi[-1:], bits(ki), block=BLOCK, topk=K)
same = msa.decode(q[-1:], cut(k), cut(v), qi[-1:], cut(ki), block=BLOCK, topk=K)
check(all((a == b).all() for a, b in zip(half, same)), "bf16 keys: the bits of the same numbers in float32")
half, same = msa.dense_decode(q[-1:], bits(k), bits(v)), msa.dense_decode(q[-1:], cut(k), cut(v))
check(all((a == b).all() for a, b in zip(half, same)), "... and in dense decoding")
cu = [0, 50, 150], [0, 100, 300]
packed = msa.dense(q, k, v, cu_q=cu[0], cu_kv=cu[1])[0]
check((packed[:50] == msa.dense(q[:50], k[:100], v[:100])[0]).all(), "packed sequences")
x = msa.rope(msa.rmsnorm(q, np.zeros(D)), D // 2)
check(x.shape == q.shape and (x[0] == msa.rmsnorm(q, np.zeros(D))[0]).all(), "norm and rotary: position 0 stays")

check(np.shares_memory(msa._array(q), q) and not np.shares_memory(msa._array(q[::2]), q), "C order is not copied")
for what, call in {
    "another head width": lambda: msa.dense(q, k[:, :, :8], v),
    "ids of another shape": lambda: msa.sparse(q, k, v, right[:, :9], block=BLOCK),
    "more queries than keys": lambda: msa.dense(q, k[:9], v[:9]),
    "an unknown kernel": lambda: msa.dense(q, k, v, kernel="dense/x"),
}.items():
    try:
        call()
        check(False, f"refused: {what}")
    except msa.Error as e:
        check(bool(str(e)), f"refused: {what}")

try:
    import torch
except ImportError:
    skip("PyTorch tensors", "no PyTorch here")
else:
    t = torch.from_numpy(q)
    check(np.shares_memory(msa._array(t), q) and (msa.dense(t, k, v)[0] == msa.dense(q, k, v)[0]).all(), "PyTorch tensors")
    layer = torch.nn.Linear(D, D, bias=False)
    with msa.capture(y=layer) as got:
        y = layer(t[None, :, 0])
    check((got["y"] == y.detach().numpy()[0]).all(), "capture")
print(f"1..{n}")
sys.exit(failed > 0)
