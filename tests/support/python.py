"""msa for Python against formulas written in NumPy, in double. Prints TAP; tests/test_python.sh runs it."""
import ast
import inspect
import os
import subprocess
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "ref", "python"))
import msa
from msa import _library as msa_library
from tap import check, check_refused, finish, skip

T, S, HQ, HKV, D, DI, BLOCK, K = 150, 300, 32, 2, 32, 16, 16, 4
G = HQ // HKV
rng = np.random.default_rng(1)
draw = lambda *sizes: rng.standard_normal(sizes).astype(np.float32)
q, k, v, qi, ki, dout = draw(T, HQ, D), draw(S, HKV, D), draw(S, HKV, D), draw(T, HKV, DI), draw(S, DI), draw(T, HQ, D)
pos = np.arange(S - T, S)
seen = np.arange(S)[None] <= pos[:, None]


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


# What float32 may lose: ref/judge/verdict.c derives it.
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
    half = msa_library.KERNELS[name].precision > 0  # q, k, v and the weights rounded to bf16
    check(np.allclose(o, o2, atol=0.02 * abs(v).max()) and np.allclose(lse, lse2, atol=0.02) if half else
          close(o, o2, abs(v).max()) and close(lse, lse2), name)

fast, ref = (msa.backward(q, k, v, dout, right, block=BLOCK, kernel=x) for x in ("fast", "ref"))
check(all(np.abs(a - b).max() <= 1e-4 * np.abs(b).max() for a, b in zip(fast, ref)), "backward: fast and reference")
dense = msa.dense_backward(q, k, v, dout), msa.backward(q, k, v, dout), msa.dense_backward(q, k, v, dout, *msa.dense(q, k, v), kernel="ref")
check(all(np.abs(a - b).max() <= 1e-4 * np.abs(b).max() for x in dense[1:] for a, b in zip(dense[0], x)),
      "dense_backward, made of its line in stages.def alone: backward without ids")
check(all(callable(getattr(msa, stage)) and getattr(msa, stage).__doc__ for stage in msa.STAGES) and
      str(inspect.signature(msa.dense_backward)).startswith("(q, k, v, dout, o=None, lse=None, *, block=128, kernel='fast', cu_q=None"),
      "every stage is a function that says what it takes")
with open(os.path.splitext(msa.__file__)[0] + ".pyi") as f:
    typed = {node.name: node.args for node in ast.parse(f.read()).body if isinstance(node, ast.FunctionDef)}


def as_typed(name):
    """Whether a function takes what its types say: these arguments, by place or name, these of them with a default."""
    a, by_name = typed[name], {}
    for x in inspect.signature(getattr(msa, name)).parameters.values():
        if x.kind == x.VAR_KEYWORD and a.kwarg:  # anything, on both sides
            continue
        for word in msa._SEQS if x.kind == x.VAR_KEYWORD else [x.name]:
            by_name[word] = (x.kind == x.POSITIONAL_OR_KEYWORD, x.kind == x.VAR_KEYWORD or x.default is not x.empty)
    places = [(x.arg, (True, i >= len(a.args) - len(a.defaults))) for i, x in enumerate(a.args)]
    names = [(x.arg, (False, default is not None)) for x, default in zip(a.kwonlyargs, a.kw_defaults)]
    return list(by_name.items())[: len(places)] == places and by_name == dict(places + names)


public = [name for name in vars(msa) if inspect.isfunction(getattr(msa, name)) and not name.startswith("_")]
check(sorted(typed) == sorted(public) and all(map(as_typed, typed)), "__init__.pyi has types of every function and its arguments")

fast, ref = (msa.kl(q, k, qi, ki, right, block=BLOCK, kernel=x) for x in ("fast", "ref"))
check(all(np.abs(a - b).max() <= 1e-4 * np.abs(b).max() for a, b in zip(fast, ref)), "kl: fast and reference")
given = msa.kl(q, k, qi, ki, right, lse2, msa.index_lse(qi, ki, right, block=BLOCK), block=BLOCK)
check(all(np.abs(a - b).max() <= 1e-4 * np.abs(b).max() for a, b in zip(given, ref)), "... the same where both LSE are given")
for name in "tiles", "blocks":
    found = msa.backward(q, k, v, dout, right, o=o2, lse=lse2, block=BLOCK, kernel="backward/" + name)
    want = msa.backward(q, k, v, dout, right, block=BLOCK, kernel="ref")
    check(all(np.abs(a - b).max() <= 1e-4 * np.abs(b).max() for a, b in zip(found, want)), "backward/" + name)
    found = msa.kl(q, k, qi, ki, right, block=BLOCK, kernel="kl/" + name)
    check(all(np.abs(a - b).max() <= 1e-4 * np.abs(b).max() for a, b in zip(found, ref)), "kl/" + name)
first, entries, items = msa.reverse(right, n_kv=S, block=BLOCK)
check(first[0, -1] == (right[0] >= 0).sum() and entries[0, 0] >> 5 == np.argwhere((right[0] == 0).any(1))[0, 0], "reverse")
rows, block_recall, score_recall = msa.recall(q, k, right, block=BLOCK)
chose = pos // BLOCK >= K
per_query = msa.recall_of_queries(q, k, right, block=BLOCK)
check(rows == HKV * chose.sum() and np.allclose(per_query[..., chose].mean((1, 2)), (block_recall, score_recall), atol=1e-6) and
      (per_query[..., ~chose] == 1).all(), "recall, and of every query")
full = [softmax(np.where(seen, q[:, h].astype(float) @ k[:, h // G].astype(float).T / D**0.5, -np.inf))[0] for h in range(HQ)]
weight = np.array(full).reshape(HKV, G, T, S).mean(1)
weight = np.add.reduceat(weight, range(0, S, BLOCK), -1)
check(np.allclose(msa.block_mass(q, k, block=BLOCK), weight, atol=error), "block mass")
best = np.argsort(-weight, axis=-1, kind="stable")[..., :K]
both = [set(best[r, i]) & set(right[r, i]) for r in range(HKV) for i in np.flatnonzero(chose)]
check(abs(np.mean([len(x) / K for x in both]) - block_recall) < 1e-6, "... whose largest blocks recall counts")
money = msa.cost(2**20)
check(abs(money["flop_ratio"] - 28.44) < 0.005 and abs(money["bytes_ratio_exact8"] - 14.91) < 0.005 and
      abs(msa.cost(2**17, topk=8)["index_share"] - 2 / 3) < 0.01, "cost")
bits = lambda x: (x.view(np.uint32) >> 16).astype(np.uint16)
cut = lambda x: (bits(x).astype(np.uint32) << 16).view(np.float32)
half = msa.decode(q[-1:], bits(k), bits(v), qi[-1:], bits(ki), block=BLOCK, topk=K)
same = msa.decode(q[-1:], cut(k), cut(v), qi[-1:], cut(ki), block=BLOCK, topk=K)
check(all((a == b).all() for a, b in zip(half, same)), "bf16 keys: the bits of the same numbers in float32")
half, same = msa.dense_decode(q[-1:], bits(k), bits(v)), msa.dense_decode(q[-1:], cut(k), cut(v))
check(all((a == b).all() for a, b in zip(half, same)), "... and in dense decoding")

# Tensors of bf16: the kernels that read them leave what they leave of the same numbers in float32.
tensors = {"q": q, "k": k, "v": v, "qi": qi, "ki": ki, "dout": dout}
calls = {
    "dense": lambda x, **kernel: msa.dense(x["q"], x["k"], x["v"], **kernel),
    "index": lambda x, **kernel: [msa.index(x["qi"], x["ki"], block=BLOCK, topk=K, **kernel),
                                  msa.scores(x["qi"], x["ki"], block=BLOCK, **kernel)],
    "sparse": lambda x, **kernel: msa.sparse(x["q"], x["k"], x["v"], right, block=BLOCK, **kernel),
    "prefill": lambda x, **kernel: msa.prefill(x["q"], x["k"], x["v"], x["qi"], x["ki"], block=BLOCK, topk=K, **kernel),
    "decode": lambda x, **kernel: [*msa.decode(x["q"][-3:], x["k"], x["v"], x["qi"][-3:], x["ki"], block=BLOCK, topk=K, **kernel),
                                   *msa.decode_pages(x["q"][None, -3:], paged(x["k"]), paged(x["v"]), *cache[1],
                                                     x["qi"][None, -3:], paged(x["ki"]), topk=K, **kernel)],
    "dense_decode": lambda x, **kernel: [*msa.dense_decode(x["q"][-3:], x["k"], x["v"], **kernel),
                                         *msa.decode_pages(x["q"][None, -3:], paged(x["k"]), paged(x["v"]), *cache[1], **kernel)],
    "backward": lambda x, **kernel: msa.backward(x["q"], x["k"], x["v"], x["dout"], right, block=BLOCK, **kernel),
    "dense_backward": lambda x, **kernel: msa.dense_backward(x["q"], x["k"], x["v"], x["dout"], **kernel),
    "kl": lambda x, **kernel: msa.kl(x["q"], x["k"], x["qi"], x["ki"], right, block=BLOCK, **kernel),
}
as_bits, as_cut = ({name: f(x) for name, x in tensors.items()} for f in (bits, cut))
equal = lambda a, b: all((np.asarray(x) == np.asarray(y)).all() for x, y in zip(a, b))
amx = {stage: call(as_cut, kernel=stage + "/amx") for stage, call in calls.items()}
for stage, call in calls.items():
    found = call(as_bits)
    check(equal(found, amx[stage]) and all(np.asarray(x).dtype != np.uint16 for x in found), f"{stage} of bf16")
check(equal(calls["sparse"](as_bits, kernel="sparse/amx_blocks"), calls["sparse"](as_cut, kernel="sparse/amx_blocks")),
      "... by name, another kernel of these")
check(any((a != b).any() for a, b in zip(amx["dense"], calls["dense"](as_cut))), "... which is not the one of float32")
x = as_bits["q"]
check(np.shares_memory(msa._args.bits("q", x, T, HQ, D), x) and msa._halves(["q", "k", "v"], as_bits) == ["q", "k", "v"] and
      msa._halves(["q", "k", "v"], as_bits | {"v": v}) == [], "... where they lie, if all of them are")

cu = [0, 50, 150], [0, 100, 300]
packed = msa.dense(q, k, v, cu_q=cu[0], cu_kv=cu[1])[0]
check((packed[:50] == msa.dense(q[:50], k[:100], v[:100])[0]).all(), "packed sequences")
x = msa.rope(msa.rmsnorm(q, np.zeros(D)), D // 2)
check(x.shape == q.shape and (x[0] == msa.rmsnorm(q, np.zeros(D))[0]).all(), "norm and rotary: position 0 stays")

cut = {"block": BLOCK, "topk": K}
padded = msa.decode(q[:30], k, v, qi[:30], ki, cu_q=[0, 10, 30], cu_kv=[0, 100, 300], len_q=[0, 5], len_kv=[0, 90], **cut)
alone = msa.decode(q[10:15], k[100:190], v[100:190], qi[10:15], ki[100:190], **cut)
check((padded[0][:, 10:15] == alone[0]).all() and all((a[10:15] == b).all() for a, b in zip(padded[1:], alone[1:])),
      "a padded batch: the rows that count are those of the sequence alone")
check(all((padded[0][:, i] == -1).all() and (padded[1][i] == 0).all() and (padded[2][i] == -np.inf).all() for i in (0, 9, 15, 29)),
      "... and the others those of queries that see nothing")
one = msa.dense(q[:3], k[:6], v[:6], cu_q=[0, 3], cu_kv=[0, 6])
check(all((a == b).all() for a, b in zip(one, msa.dense(q[:3], k[:6], v[:6]))), "one sequence with its lengths")

same = lambda a, b: all((x == y).all() for x, y in zip(a, b))
want = msa.sparse(q, k, v, right, block=BLOCK)
for name, ids in {"int64": right.astype(np.int64), "int8": right.astype(np.int8), "a list": right.tolist()}.items():
    check(same(msa.sparse(q, k, v, ids, block=BLOCK), want), f"ids as {name}")
wide = lambda x: x.astype(np.float64)
check(same(msa.sparse(wide(q), wide(k), wide(v), right, block=np.int64(BLOCK)), want), "float64 becomes float32")
small = lambda x: x.astype(np.float16)
check(same(msa.sparse(small(q), k, v, right, block=BLOCK), msa.sparse(small(q).astype(np.float32), k, v, right, block=BLOCK)), "and so does float16")
check(np.shares_memory(msa._args.array("q", q, T, HQ, D), q) and not np.shares_memory(msa._args.array("q", q[::2], "T", HQ, D), q), "C order is not copied")
for what, call in {
    "found (300, 2, 8)": lambda: msa.dense(q, k[:, :, :8], v),
    "dout: expected shape (150, 32, 32), found (300, 2, 32)": lambda: msa.dense_backward(q, k, v, v),
    "lse: expected floats, found int32": lambda: msa.dense_backward(q, k, v, dout, q, np.zeros((T, HQ), np.int32)),
    "ids: expected shape (2, 150, k), found (2, 9, 4)": lambda: msa.sparse(q, k, v, right[:, :9], block=BLOCK),
    "more queries than keys": lambda: msa.dense(q, k[:9], v[:9]),
    "kernel: expected fast, ref or dense/NAME, found 'dense/x'": lambda: msa.dense(q, k, v, kernel="dense/x"),
    "kernel: expected fast, ref or dense/NAME, found 'sparse/tiles'": lambda: msa.dense(q, k, v, kernel="sparse/tiles"),
    "block: expected an integer from 1": lambda: msa.scores(qi, ki, block=0),
    "block: expected an integer": lambda: msa.topk(scores, n_kv=S, block=0, topk=K),
    "block: expected": lambda: msa.recall(q, k, right, block=0),
    "4294967312": lambda: msa.index(qi, ki, block=2**32 + BLOCK, topk=K),
    "block: expected an integer from 1 to 2^31 - 1, found True": lambda: msa.index(qi, ki, block=True, topk=K),
    "topk: expected|k: expected an integer": lambda: msa.index(qi, ki, block=BLOCK, topk=2.0),
    "n_kv: expected|S: expected an integer": lambda: msa.topk(scores, n_kv=2**32 + S, block=BLOCK, topk=K),
    "k: expected shape (S, Hkv, 32), found (300, 2, 16)": lambda: msa.kl(q, k[:, :, :16], qi, ki, right, block=BLOCK),
    "k: expected shape (S, Hkv, 32)": lambda: msa.recall(q, k[:, :, :16], right, block=BLOCK),
    "ids: expected integers that 32 bits hold": lambda: msa.sparse(q, k, v, right + np.int64(2**32), block=BLOCK),
    "ids: expected integers, found float64": lambda: msa.sparse(q, k, v, right + 0.9, block=BLOCK),
    "ids: expected integers, found bool": lambda: msa.sparse(q, k, v, right > 0, block=BLOCK),
    "q: expected floats, found int32": lambda: msa.dense(q.astype(np.int32), k, v),
    "q: expected an array without a mask": lambda: msa.dense(np.ma.masked_array(q, q > 0), k, v),
    "weight: expected a finite number, found nan": lambda: msa.kl(q, k, qi, ki, right, block=BLOCK, weight=np.nan),
    "theta: expected a finite number, found inf": lambda: msa.rope(q, 16, theta=float("inf")),
    "q: expected numbers within the range of float32": lambda: msa.dense(wide(q) * 1e300, k, v),
    "cu_kv: expected shape (3), found (2,)": lambda: msa.dense(q, k, v, cu_q=[0, 50, 150], cu_kv=[0, 300]),
    "cu_q and cu_kv: expected both": lambda: msa.dense(q, k, v, cu_q=[0, 150]),
    "cu_q: expected integers that": lambda: msa.dense(q, k, v, cu_q=np.array([0, 150]) + 2**32, cu_kv=[0, 300]),
    "cumulative sequence lengths": lambda: msa.dense(q[:3], k[:6], v[:6], cu_q=[0, 3], cu_kv=[0, 4]),
    "len_q: expected shape (1)": lambda: msa.dense(q, k, v, len_q=[1, 2]),
    "v: expected bf16": lambda: msa.decode(q[-1:], bits(k), v, qi[-1:], bits(ki), block=BLOCK, topk=K),
    "q: expected floats, found uint16": lambda: msa.dense(bits(q), k, v),
    "v: expected floats, found uint16|k: expected floats, found uint16": lambda: msa.dense(q, bits(k), bits(v)),
    "expected floats, found uint16": lambda: msa.dense(bits(q), bits(k), bits(v), kernel="ref"),
    "k: expected floats, found uint16": lambda: msa.decode(q[-1:], bits(k), bits(v), qi[-1:], bits(ki), block=BLOCK, topk=K, kernel="ref"),
    "k: expected shape (S, Hkv, 32), found (300, 2, 8)": lambda: msa.dense(bits(q), bits(k)[:, :, :8], bits(v)),
    "x: expected shape (n, heads, d)": lambda: msa.rope(q[None], 16),
    "table: expected shape (2, max_pages)": lambda: msa.decode_pages(q[:2, None], k[None], v[None], [[0]], [5, 5]),
}.items():
    check_refused(what, call, msa.Error)

for path, says in {"/nowhere.so": "/nowhere.so: expected a library that loads here", __file__: "invalid ELF header"}.items():
    said = subprocess.run([sys.executable, "-c", "import msa"], capture_output=True, text=True,
                          env=os.environ | {"MSA_LIBRARY": path, "PYTHONPATH": os.path.dirname(os.path.dirname(msa.__file__))})
    check(said.returncode == 1 and "ImportError: " in said.stderr and says in said.stderr, f"a library that is none: {says}")

# Arguments of any type and shape, in a process of their own: none may end it.
seed = os.environ.get("MSA_SEED", str(int.from_bytes(os.urandom(4), "little")))
child = subprocess.run([sys.executable, os.path.join(os.path.dirname(__file__), "python_fuzz.py"), seed, "3000"],
                       capture_output=True, text=True)
print(f"# seed {seed}: {child.stdout.strip().splitlines()[-1:]}")
for line in [] if child.returncode == 0 else (child.stdout + child.stderr).splitlines()[-25:]:
    print(f"# {line}")
check(child.returncode == 0, "3000 calls with arguments that do not fit")

try:
    import torch
except ImportError:
    skip("PyTorch tensors", "no PyTorch here")
else:
    t = torch.from_numpy(q)
    check(np.shares_memory(msa._args.array("t", t, *t.shape), q) and (msa.dense(t, k, v)[0] == msa.dense(q, k, v)[0]).all(), "PyTorch tensors")
    as_halves = {name: torch.from_numpy(x).to(torch.bfloat16).requires_grad_() for name, x in as_cut.items()}
    paged = lambda x: torch.stack([torch.cat([x, x])[list(order).index(b) * BLOCK:][:BLOCK] if b in order else x[:BLOCK]
                                   for b in range(blocks + 2)])
    for stage, call in calls.items():
        check(equal(call(as_halves), amx[stage]), f"{stage} of PyTorch tensors of bf16")
    t = as_halves["q"]
    check(msa._args.bits("q", t, T, HQ, D).ctypes.data == t.data_ptr(), "... where they lie")
    check(equal(calls["dense"](as_halves, kernel="ref"), calls["dense"](as_cut, kernel="ref")) and
          equal(calls["dense"](as_halves | {"v": as_cut["v"]}), calls["dense"](as_cut)),
          "... become float32 for the kernels of that, and beside a tensor of it")
    check(equal(msa.decode(q[-1:], as_halves["k"], as_halves["v"], qi[-1:], as_halves["ki"], block=BLOCK, topk=K),
                msa.decode(q[-1:], bits(k), bits(v), qi[-1:], bits(ki), block=BLOCK, topk=K)), "keys of PyTorch in bf16")
finish()
