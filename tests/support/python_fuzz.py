"""Calls every function of msa with arguments of which some do not fit: python_fuzz.py SEED CALLS

Every call has to return or to raise msa.Error; tests/support/python.py sees whether the process lives. Arrays end where
memory that nobody may read begins."""
import ctypes
import faulthandler
import mmap
import os
import resource
import sys
import warnings

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "ref", "python"))
import msa

faulthandler.enable()
warnings.simplefilter("ignore")
seed, calls = map(int, sys.argv[1:3])
rng = np.random.default_rng(seed)
T, S, HQ, HKV, D, DI, BLOCK, K = 6, 21, 4, 2, 8, 4, 4, 3
PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None)
kept = []


def fenced(x):
    """x, with a page behind it that cannot be read."""
    x = np.ascontiguousarray(x)
    pages = -(-x.nbytes // PAGE)
    area = mmap.mmap(-1, (pages + 1) * PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    libc.mprotect(ctypes.c_void_p(start + pages * PAGE), ctypes.c_size_t(PAGE), 0)
    y = np.frombuffer(area, x.dtype, x.size, pages * PAGE - x.nbytes).reshape(x.shape)
    y[...] = x
    kept.append(area)
    return y


draw = lambda *sizes: fenced(rng.standard_normal(sizes).astype(np.float32))
q, k, v, qi, ki, dout = draw(T, HQ, D), draw(S, HKV, D), draw(S, HKV, D), draw(T, HKV, DI), draw(S, DI), draw(T, HQ, D)
ids = fenced(msa.index(qi, ki, block=BLOCK, topk=K))
m = fenced(msa.scores(qi, ki, block=BLOCK))
bits = lambda x: fenced((x.view(np.uint32) >> 16).astype(np.uint16))
paged = lambda x: fenced(np.concatenate([x, x[:3]]).reshape(-1, BLOCK, *x.shape[1:]))
main, side = {"q": q, "k": k, "v": v}, {"qi": qi, "ki": ki}
halves = {"q": q[-1:], "k": bits(k), "v": bits(v)}
sel, blk = {"ids": ids}, {"block": BLOCK}
pages = {"q": q[None], "k": paged(k), "v": paged(v), "table": fenced(np.arange(6, dtype=np.int32)[None]),
         "lens": fenced(np.array([S], np.int32))}
functions = [
    (msa.dense, main), (msa.scores, side | blk), (msa.index, side | blk | {"topk": K}), (msa.index_lse, side | sel | blk),
    (msa.topk, {"m": m, "n_kv": S, "topk": K} | blk), (msa.sparse, main | sel | blk),
    (msa.decode, main | side | blk | {"topk": K}), (msa.dense_decode, main | blk),
    (msa.decode, halves | {"qi": qi[-1:], "ki": bits(ki)} | blk | {"topk": K}), (msa.dense_decode, halves),
    (msa.decode_pages, pages), (msa.decode_pages, pages | {"qi": qi[None], "ki": paged(ki), "topk": K, "block": BLOCK}),
    (msa.prefill, main | side | blk | {"topk": K}), (msa.backward, main | {"dout": dout} | sel | blk),
    (msa.backward, main | {"dout": dout, "o": dout, "lse": dout[:, :, 0]}), (msa.kl, {"q": q, "k": k} | side | sel | blk), (msa.kl, {"q": q, "k": k} | side | sel | blk | {"lse": dout[:, :, 0]}),
    (msa.dense_backward, main | {"dout": dout, "lse": dout[:, :, 0]}), (msa.reverse, sel | {"n_kv": S} | blk), (msa.recall, {"q": q, "k": k} | sel | blk),
    (msa.rmsnorm, {"x": q, "gain": fenced(np.zeros(D, np.float32))}), (msa.rope, {"x": q, "rot": 4, "pos": np.arange(T)}),
]
stages = {f.__name__: f.__name__ for f, _ in functions} | {"scores": "index", "decode_pages": "decode"}
cuts = [None, [0, T], [0, 2, T], [0, T + 1], [0], [], [0, 2, 1, T], np.array([0, T]) + 2**32, [0.0, T], [[0, T]], [0, 2, T, 2**40], "0 6", 7,
        [0, 0, T], [-1, T], [0, S], [0, 9, S], [0, 4], [0, 2, 4, S]]
scalars = [0, -1, 1, 2, 3, 5, 1000, 2**31 - 1, 2**31, 2**32 + 4, 10**30, True, 1.5, np.float32(2), np.int64(4), np.int64(2**33), None, "4", [4], 1j,
           float("nan"), np.array(4), np.bool_(True)]


def other_array(x):
    """Something like x, or nothing like it."""
    axis = int(rng.integers(max(1, x.ndim)))
    part = lambda n: np.take(x, np.arange(n) % max(1, x.shape[axis]), axis) if x.ndim and x.shape[axis] else x
    choices = [
        lambda: part(int(rng.integers(0, 2 * x.shape[axis] + 2)) if x.ndim else 0), lambda: x[None], lambda: x[..., 0] if x.ndim and x.shape[-1] else x,
        lambda: x.T, lambda: x.reshape(-1), lambda: x[..., ::-1] if x.ndim else x, lambda: np.asfortranarray(x), lambda: x.astype(x.dtype.newbyteorder()),
        lambda: x.astype(np.float64), lambda: x.astype(np.float16), lambda: x.astype(np.longdouble), lambda: x.astype(complex),
        lambda: x.astype(bool), lambda: x.astype(object), lambda: x.astype(str), lambda: x.astype(np.int64),
        lambda: x.astype(np.int64) + 2**32, lambda: x.astype(np.float64) * 1e300, lambda: x + x.dtype.type(1),
        lambda: x * x.dtype.type(100), lambda: x[..., :0], lambda: np.zeros((2**32 + 4, 0, 2), x.dtype),
        lambda: np.frombuffer(b"\0" + x.tobytes(), x.dtype, x.size, 1 if x.itemsize == 1 else 0).reshape(x.shape),
        lambda: np.frombuffer(bytes(1) + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
        lambda: x.tolist(), lambda: None, lambda: 3, lambda: "x", lambda: [[1], [2, 3]], lambda: {}, lambda: x.astype(np.uint8),
        lambda: x.astype(np.uint16), lambda: rng.permutation(x.reshape(-1)).reshape(x.shape),
        lambda: np.full(x.shape, np.nan if x.dtype.kind == "f" else x.dtype.type(1) - x.dtype.type(2)), lambda: np.ma.masked_array(x), lambda: memoryview(np.ascontiguousarray(x)),
    ]
    try:
        y = choices[int(rng.integers(len(choices)))]()
    except Exception: # x was spoiled before
        y = object()
    return fenced(y) if isinstance(y, np.ndarray) and y.nbytes and y.dtype.kind in "fiu" and y.dtype.isnative and rng.integers(2) else y


def spoil(function, args):
    args = dict(args)
    if rng.integers(4) == 0:
        args = {name: bits(x) if isinstance(x, np.ndarray) and x.dtype == np.float32 else x for name, x in args.items()}
    for _ in range(int(rng.integers(1, 3))):
        name = list(args)[int(rng.integers(len(args)))]
        x = args[name]
        args[name] = other_array(x) if isinstance(x, np.ndarray) else scalars[int(rng.integers(len(scalars)))]
    stage = stages[function.__name__]
    if rng.integers(2) and stage in msa.STAGES:
        names = ["ref", "fast", "", "x", None, 3, [], "dense/tiles"] + [n for n in msa._library.KERNELS if n.startswith(stage + "/")] * 3
        args["kernel"] = names[int(rng.integers(len(names)))]
    if rng.integers(3) == 0 and function.__name__ not in ("reverse", "rmsnorm", "rope", "decode_pages"):
        for name in ("cu_q", "cu_kv", "len_q", "len_kv")[: int(rng.integers(1, 5))]:
            args[name] = cuts[int(rng.integers(len(cuts)))]
    return args


def words(x):
    return f"{x.dtype}{list(x.shape)}" if isinstance(x, np.ndarray) else repr(x)[:40]


with open("/proc/self/statm") as f: # large outputs fail to be allocated instead of filling the machine
    resource.setrlimit(resource.RLIMIT_AS, (int(f.read().split()[0]) * PAGE + 2**31,) * 2)
returned = 0
np.seterr(all="ignore")
for call in range(calls):
    function, args = functions[int(rng.integers(len(functions)))]
    args = spoil(function, args)
    line = f"call {call}: {function.__name__}({', '.join(f'{n}={words(x)}' for n, x in args.items())})"
    print(line, flush=True)
    try:
        function(**args)
        returned += 1
    except MemoryError: # of topk 2^31 - 1
        pass
    except msa.Error as e:
        assert str(e) and "\n" not in str(e), (line, str(e))
    if len(kept) > 2000: # mappings that no array of the base arguments needs
        del kept[200:1200]
assert calls < 1000 or 0.02 * calls < returned < 0.9 * calls, returned
print(f"{calls} calls, {returned} of them fit")
