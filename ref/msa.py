"""MSA from Python: every stage and kernel of libmsa.so on NumPy arrays or PyTorch CPU tensors.

    import msa                                   # with ref/ or PREFIX/lib/python on sys.path
    ids = msa.index(qi, ki, block=128, topk=16)  # int32 [Hkv,T,k]
    o, lse = msa.sparse(q, k, v, ids, block=128)
    o, lse = msa.sparse(q, k, v, ids, block=128, kernel="sparse/blocks")

Arrays are token-major as in msa.h: q [T,Hq,dh]  k,v [S,Hkv,dh]  qi [T,Hkv,di]  ki [S,di]. A C-ordered float32
array, or a PyTorch tensor that is one, is used where it lies; anything else is copied into one first. Results are
NumPy arrays; torch.from_numpy() makes tensors of them, again without a copy. `kernel` is "fast" (the default: the
best on a CPU), "ref" (the reference) or the name of a kernel, "STAGE/NAME"; kernels() lists them. cu_q and cu_kv
[R+1] pack several sequences. The library is the file that MSA_LIBRARY names, or libmsa.so in build/
beside ref/, or where `make install` put this file, in the directory above it.
"""

import ctypes as c
import os
from pathlib import Path

import numpy as np

STAGES = ["dense", "index", "topk", "reverse", "sparse", "prefill", "decode", "dense_decode",
          "backward", "dense_backward", "kl"]


class Error(ValueError):
    """What msa_strerror() says of a call that failed."""


class Shape(c.Structure):
    """msa_shape"""

    _fields_ = [("n_q", c.c_int64), ("n_kv", c.c_int64), ("n_heads", c.c_int), ("n_kv_heads", c.c_int),
                ("d_head", c.c_int), ("d_index", c.c_int), ("block", c.c_int), ("topk", c.c_int),
                ("n_seqs", c.c_int), ("cu_q", c.c_void_p), ("cu_kv", c.c_void_p), ("len_q", c.c_void_p),
                ("len_kv", c.c_void_p)]


class _Pages(c.Structure):
    """msa_pages"""

    _fields_ = [("n_pages", c.c_int64), ("table", c.c_void_p), ("lens", c.c_void_p), ("ki8", c.c_void_p),
                ("scale", c.c_void_p), ("page", c.c_int)]


class _Kernel(c.Structure):
    """msa_kernel"""

    _fields_ = [("stage", c.c_int), ("name", c.c_char_p), ("backend", c.c_char_p), ("constraints", c.c_char_p),
                ("idea", c.c_char_p), ("precision", c.c_int),
                ("workspace", c.CFUNCTYPE(c.c_size_t, c.POINTER(Shape))), ("run", c.c_void_p)]


class _Ops(c.Structure):
    """msa_ops"""

    _fields_ = [("stage", c.POINTER(_Kernel) * len(STAGES)), ("gemm", c.c_void_p)]


def _load():
    here = Path(__file__).resolve().parent.parent  # the project, or the lib/ of an installation
    built, installed = here / "build" / "libmsa.so", here / "libmsa.so"
    lib = c.CDLL(os.environ.get("MSA_LIBRARY") or str(installed if installed.exists() else built))
    lib.msa_strerror.restype = c.c_char_p
    lib.msa_n_blocks.restype = lib.msa_first_item.restype = c.c_int64
    lib.msa_recall_workspace.restype = lib.msa_workspace.restype = c.c_size_t
    return lib


_lib = _load()
_REF, _FAST = _Ops.in_dll(_lib, "msa_ref_ops"), _Ops.in_dll(_lib, "msa_fast_ops")


def _table():
    """Name -> kernel, for every kernel of the library; the reference's are called STAGE/reference."""
    table = {f"{STAGES[i]}/{k.contents.name.decode()}": k.contents for i, k in enumerate(_REF.stage)}
    at = c.addressof(_Kernel.in_dll(_lib, "msa_fast_kernels"))
    while (k := _Kernel.from_address(at)).name:
        table[f"{STAGES[k.stage]}/{k.name.decode()}"] = k
        at += c.sizeof(_Kernel)
    return table


_kernels = _table()


def kernels():
    """[(name, back end, idea)]"""
    return [(name, k.backend.decode(), k.idea.decode()) for name, k in _kernels.items()]


# ---- Arrays and calls ------------------------------------------------------------------------------------


def _array(x, dtype=np.float32):
    """x as a C-ordered array of that type: itself where it is one. A tensor shares its memory."""
    if hasattr(x, "detach"):
        x = x.detach()
        x = (x.float() if dtype is np.float32 else x).cpu().numpy()
    return np.ascontiguousarray(x, dtype)


def _pointer(x):
    return None if x is None else c.c_void_p(x.ctypes.data)


def _check(status):
    if status:
        raise Error(_lib.msa_strerror(status).decode())


def shape(q=None, k=None, qi=None, ki=None, *, block, topk=1, cu_q=None, cu_kv=None):
    """The msa_shape of a call. A branch without tensors borrows the other's sizes."""
    queries, keys = (q, k) if q is not None else (qi, ki)
    groups = k.shape[1] if k is not None else qi.shape[1]
    s = Shape(queries.shape[0], keys.shape[0], q.shape[1] if q is not None else groups, groups,
              q.shape[2] if q is not None else qi.shape[2], qi.shape[2] if qi is not None else q.shape[2], block,
              topk, 1 if cu_q is None else len(cu_q) - 1, None, None)
    if cu_q is not None:
        s.arrays = [_array(cu_q, np.int32), _array(cu_kv, np.int32)]  # kept alive with s
        s.cu_q, s.cu_kv = (x.ctypes.data for x in s.arrays)
    return s


def _expect(what, x, *sizes):
    """C would read past the end of an array of another shape."""
    if x is not None and x.shape != sizes:
        raise Error(f"{what}: expected shape {sizes}, found {x.shape}")


def _run(stage, kernel, s, *args):
    i = STAGES.index(stage)
    if kernel in ("fast", "ref"):
        k = (_FAST if kernel == "fast" else _REF).stage[i].contents
    elif kernel in _kernels and _kernels[kernel].stage == i:
        k = _kernels[kernel]
    else:
        raise Error(f"kernel: expected fast, ref or {stage}/NAME, found {kernel!r}")
    _check(_lib.msa_check_shape(c.byref(s)))
    work = np.empty(k.workspace(s), np.uint8)
    args = [_pointer(x) if isinstance(x, np.ndarray) or x is None else x for x in args]
    _check(c.CFUNCTYPE(c.c_int)(k.run)(c.byref(s), *args, _pointer(work)))


# ---- Stages ----------------------------------------------------------------------------------------------


def _attention(q, k, v):
    q, k, v = _array(q), _array(k), _array(v)
    _expect("k", k, k.shape[0], k.shape[1], q.shape[2])
    _expect("v", v, *k.shape)
    return q, k, v


def _index_tensors(qi, ki, n_q, n_kv, groups):
    qi, ki = _array(qi), _array(ki)
    _expect("qi", qi, n_q, groups, ki.shape[1])
    _expect("ki", ki, n_kv, ki.shape[1])
    return qi, ki


def _ids(ids, s):
    if ids is None:
        return None
    ids = _array(ids, np.int32)
    _expect("ids", ids, s.n_kv_heads, s.n_q, s.topk)
    return ids


def dense(q, k, v, *, kernel="fast", cu_q=None, cu_kv=None):
    """Causal grouped-query attention: o [T,Hq,dh], lse [T,Hq]."""
    q, k, v = _attention(q, k, v)
    o, lse = np.empty_like(q), np.empty(q.shape[:2], np.float32)
    _run("dense", kernel, shape(q, k, block=128, cu_q=cu_q, cu_kv=cu_kv), q, k, v, o, lse)
    return o, lse


def scores(qi, ki, *, block, kernel="fast", cu_q=None, cu_kv=None):
    """Block scores [Hkv,T,B] of the Index Branch."""
    qi, ki = _array(qi), _array(ki)
    qi, ki = _index_tensors(qi, ki, qi.shape[0], ki.shape[0], qi.shape[1])
    s = shape(qi=qi, ki=ki, block=block, cu_q=cu_q, cu_kv=cu_kv)
    m = np.empty((s.n_kv_heads, s.n_q, _lib.msa_n_blocks(c.byref(s))), np.float32)
    _run("index", kernel, s, qi, ki, m, None, None)
    return m


def index(qi, ki, *, block, topk, kernel="fast", cu_q=None, cu_kv=None):
    """The selection of the Index Branch: ids [Hkv,T,k], ascending, then -1."""
    qi, ki = _array(qi), _array(ki)
    qi, ki = _index_tensors(qi, ki, qi.shape[0], ki.shape[0], qi.shape[1])
    s = shape(qi=qi, ki=ki, block=block, topk=topk, cu_q=cu_q, cu_kv=cu_kv)
    ids = np.empty((s.n_kv_heads, s.n_q, topk), np.int32)
    _run("index", kernel, s, qi, ki, None, ids, None)
    return ids


def index_lse(qi, ki, ids=None, *, block, cu_q=None, cu_kv=None):
    """[Hkv,T]: log-sum-exp of the index logits over the selection, or over all visible tokens."""
    qi, ki = _array(qi), _array(ki)
    qi, ki = _index_tensors(qi, ki, qi.shape[0], ki.shape[0], qi.shape[1])
    s = shape(qi=qi, ki=ki, block=block, topk=1 if ids is None else ids.shape[2], cu_q=cu_q, cu_kv=cu_kv)
    lse, ids = np.empty((s.n_kv_heads, s.n_q), np.float32), _ids(ids, s)
    _check(_lib.msa_index_lse(c.byref(s), _pointer(qi), _pointer(ki), _pointer(ids), _pointer(lse)))
    return lse


def topk(m, *, n_kv, block, topk, kernel="fast", cu_q=None, cu_kv=None):
    """The selection from scores [Hkv,T,B]."""
    m = _array(m)
    s = Shape(m.shape[1], n_kv, m.shape[0], m.shape[0], 1, 1, block, topk, 1)
    if cu_q is not None:
        s.n_seqs, s.arrays = len(cu_q) - 1, [_array(cu_q, np.int32), _array(cu_kv, np.int32)]
        s.cu_q, s.cu_kv = (x.ctypes.data for x in s.arrays)
    _expect("scores", m, s.n_kv_heads, s.n_q, _lib.msa_n_blocks(c.byref(s)))
    ids = np.empty((s.n_kv_heads, s.n_q, topk), np.int32)
    _run("topk", kernel, s, m, ids)
    return ids


def sparse(q, k, v, ids, *, block, kernel="fast", cu_q=None, cu_kv=None):
    """Attention over the selected blocks: o [T,Hq,dh], lse [T,Hq]."""
    q, k, v = _attention(q, k, v)
    s = shape(q, k, block=block, topk=ids.shape[2], cu_q=cu_q, cu_kv=cu_kv)
    o, lse = np.empty_like(q), np.empty(q.shape[:2], np.float32)
    _run("sparse", kernel, s, q, k, v, _ids(ids, s), o, lse)
    return o, lse


def decode(q, k, v, qi, ki, *, block, topk, kernel="fast", cu_q=None, cu_kv=None):
    """A step of generation: ids, o, lse. float32, or keys, values and index keys as uint16 bits of bf16."""
    half = k.dtype == np.uint16
    if half and kernel != "fast":
        raise Error("kernel: bf16 is read by fast only")
    q, qi = _array(q), _array(qi)
    k, v, ki = (np.ascontiguousarray(x, np.uint16) if half else _array(x) for x in (k, v, ki))
    s = shape(q, k, qi, ki, block=block, topk=topk, cu_q=cu_q, cu_kv=cu_kv)
    for name, x, sizes in [("k", k, (s.n_kv, s.n_kv_heads, s.d_head)), ("v", v, k.shape), ("qi", qi, (s.n_q, s.n_kv_heads, s.d_index)), ("ki", ki, (s.n_kv, s.d_index))]:
        _expect(name, x, *sizes)
    ids = np.empty((s.n_kv_heads, s.n_q, topk), np.int32)
    o, lse = np.empty_like(q), np.empty(q.shape[:2], np.float32)
    if half:
        _check(_lib.msa_check_shape(c.byref(s)))
        work = np.empty(_FAST.stage[STAGES.index("decode")].contents.workspace(s), np.uint8)
        _check(_lib.msa_fast_decode_bf16(c.byref(s), *map(_pointer, (q, k, v, qi, ki, ids, o, lse, work))))
    else:
        _run("decode", kernel, s, None, q, k, v, qi, ki, ids, o, lse)  # None: no pages
    return ids, o, lse


def dense_decode(q, k, v, *, block=128, kernel="fast", cu_q=None, cu_kv=None):
    """The same step by dense attention: o, lse. Keys and values may be uint16 bits of bf16, as for decode."""
    half = k.dtype == np.uint16
    if half and kernel != "fast":
        raise Error("kernel: bf16 is read by fast only")
    q = _array(q)
    k, v = (np.ascontiguousarray(x, np.uint16) if half else _array(x) for x in (k, v))
    s = shape(q, k, block=block, cu_q=cu_q, cu_kv=cu_kv)
    _expect("k", k, s.n_kv, s.n_kv_heads, s.d_head)
    _expect("v", v, *k.shape)
    o, lse = np.empty_like(q), np.empty(q.shape[:2], np.float32)
    if half:
        _check(_lib.msa_check_shape(c.byref(s)))
        work = np.empty(_FAST.stage[STAGES.index("dense_decode")].contents.workspace(s), np.uint8)
        _check(_lib.msa_fast_dense_decode_bf16(c.byref(s), *map(_pointer, (q, k, v, o, lse, work))))
    else:
        _run("dense_decode", kernel, s, None, q, k, v, o, lse)
    return o, lse


def decode_pages(q, k, v, table, lens, qi=None, ki=None, *, block=None, topk=None, kernel="fast"):
    """A step of generation over pages: q [R,Tq,Hq,dh], qi [R,Tq,Hkv,di], k and v [P,page,Hkv,dh], ki [P,page,di], table
    [R,max_pages], lens [R] with the Tq new tokens, which the pages hold already, or 0. Pages are blocks, or of a size
    that divides the block or that it divides. ids [Hkv,R*Tq,k], o, lse; without topk dense attention: o, lse."""
    q, k, v = _array(q), _array(k), _array(v)
    table, lens = _array(table, np.int32), _array(lens, np.int32)
    requests, n, heads, d = q.shape
    pages, page, groups = k.shape[:3]
    block = page if block is None else block
    _expect("k", k, pages, page, groups, d)
    _expect("v", v, *k.shape)
    _expect("table", table, requests, table.shape[1])
    _expect("lens", lens, requests)
    sparse = topk is not None
    if sparse:
        qi, ki = _array(qi), _array(ki)
        _expect("qi", qi, requests, n, groups, ki.shape[2])
        _expect("ki", ki, pages, page, ki.shape[2])
    most = table.shape[1] * page  # keys of a request
    s = Shape(requests * n, requests * most, heads, groups, d, ki.shape[2] if sparse else d, block, topk or 1, requests)
    s.arrays = [np.arange(requests + 1, dtype=np.int32) * x for x in (n, most)]
    s.cu_q, s.cu_kv = (x.ctypes.data for x in s.arrays)
    p = _Pages(pages, table.ctypes.data, lens.ctypes.data, None, None, page)
    _check(_lib.msa_check_pages(c.byref(s), c.byref(p)))
    o, lse = np.empty_like(q), np.empty(q.shape[:3], np.float32)
    if not sparse:
        _run("dense_decode", kernel, s, c.byref(p), q, k, v, o, lse)
        return o, lse
    ids = np.empty((groups, requests * n, topk), np.int32)
    _run("decode", kernel, s, c.byref(p), q, k, v, qi, ki, ids, o, lse)
    return ids, o, lse


def prefill(q, k, v, qi, ki, *, block, topk, kernel="fast", cu_q=None, cu_kv=None):
    """The whole attention, index and sparse: ids, o, lse."""
    q, k, v = _attention(q, k, v)
    qi, ki = _index_tensors(qi, ki, q.shape[0], k.shape[0], k.shape[1])
    s = shape(q, k, qi, ki, block=block, topk=topk, cu_q=cu_q, cu_kv=cu_kv)
    ids = np.empty((s.n_kv_heads, s.n_q, topk), np.int32)
    o, lse = np.empty_like(q), np.empty(q.shape[:2], np.float32)
    _run("prefill", kernel, s, q, k, v, qi, ki, ids, o, lse)
    return ids, o, lse


def backward(q, k, v, dout, ids=None, *, o=None, lse=None, block=128, kernel="fast", cu_q=None, cu_kv=None):
    """dq, dk, dv of the Main Branch; ids None: dense attention."""
    q, k, v = _attention(q, k, v)
    s = shape(q, k, block=block, topk=1 if ids is None else ids.shape[2], cu_q=cu_q, cu_kv=cu_kv)
    dout, o, lse = _array(dout), None if o is None else _array(o), None if lse is None else _array(lse)
    _expect("dout", dout, *q.shape)
    _expect("o", o, *q.shape)
    _expect("lse", lse, *q.shape[:2])
    dq, dk, dv = np.empty_like(q), np.empty_like(k), np.empty_like(v)
    _run("backward", kernel, s, q, k, v, _ids(ids, s), o, lse, dout, dq, dk, dv)
    return dq, dk, dv


def kl(q, k, qi, ki, ids=None, *, block=128, weight=1.0, kernel="fast", cu_q=None, cu_kv=None):
    """The selector's loss and its gradients: loss, dqi, dki; ids None: over all visible tokens."""
    q, k = _array(q), _array(k)
    qi, ki = _index_tensors(qi, ki, q.shape[0], k.shape[0], k.shape[1])
    s = shape(q, k, qi, ki, block=block, topk=1 if ids is None else ids.shape[2], cu_q=cu_q, cu_kv=cu_kv)
    ids, loss = _ids(ids, s), c.c_double()
    dqi, dki = np.empty_like(qi), np.empty_like(ki)
    _run("kl", kernel, s, q, k, qi, ki, ids, None, None, c.c_double(weight), c.byref(loss), dqi, dki)
    return loss.value, dqi, dki


def reverse(ids, *, n_kv, block, kernel="fast", cu_q=None, cu_kv=None):
    """first [Hkv,B+1], entries [Hkv,T*k] and items [n,4] of one sequence: which queries chose a block."""
    ids = _array(ids, np.int32)
    groups, n_q, k = ids.shape
    s = Shape(n_q, n_kv, groups, groups, 1, 1, block, k, 1)
    _check(_lib.msa_check_ids(c.byref(s), _pointer(ids)))
    first = np.empty((groups, _lib.msa_n_blocks(c.byref(s)) + 1), np.int32)
    entries = np.empty((groups, n_q * k), np.uint32)
    items = np.empty((_lib.msa_first_item(c.byref(s), 1), 4), np.int32)
    _run("reverse", kernel, s, ids, first, entries, items)
    return first, entries, items


class _Recall(c.Structure):
    _fields_ = [("rows", c.c_int64), ("block_recall", c.c_double), ("score_recall", c.c_double)]


def recall(q, k, ids, *, block, cu_q=None, cu_kv=None):
    """(pairs, block recall, score recall) of a selection against what full attention weighs most."""
    q, k = _array(q), _array(k)
    s = shape(q, k, block=block, topk=ids.shape[2], cu_q=cu_q, cu_kv=cu_kv)
    ids, found = _ids(ids, s), _Recall()
    work = np.empty(_lib.msa_recall_workspace(c.byref(s)), np.uint8)
    _check(_lib.msa_recall(c.byref(s), *map(_pointer, (q, k, ids)), None, c.byref(found), _pointer(work)))
    return found.rows, found.block_recall, found.score_recall


# ---- Norm, rotary, and tensors captured from a model --------------------------------------------------------


def rmsnorm(x, gain, eps=1e-6):
    """Gemma-form RMSNorm over the last axis: x / rms(x) * (1 + gain)."""
    x, gain = _array(x), _array(gain)
    _expect("gain", gain, x.shape[-1])
    y = np.empty_like(x)
    _check(_lib.msa_rmsnorm(c.c_int64(x.size // x.shape[-1]), x.shape[-1], c.c_double(eps), _pointer(x),
                            _pointer(gain), _pointer(y)))
    return y


def rope(x, rot, theta=5e6, pos=None):
    """Partial rotary embedding of x [n,heads,d] (or [n,d]), half-split pairs; pos counts from 0 unless given."""
    y = np.array(_array(x))
    pos = np.arange(y.shape[0], dtype=np.int32) if pos is None else _array(pos, np.int32)
    _expect("pos", pos, y.shape[0])
    heads = y.shape[1] if y.ndim == 3 else 1
    _check(_lib.msa_rope(c.c_int64(y.shape[0]), heads, y.shape[-1], rot, c.c_double(theta), _pointer(pos),
                         c.c_bool(False), _pointer(y)))
    return y


class capture:
    """Keeps what modules of a PyTorch model put out while it runs: `with capture(qi=m.a, ki=m.b) as seen: model(x)`
    leaves seen["qi"] and seen["ki"] as float32 arrays, without the batch dimension. The README has the recipe."""

    def __init__(self, **modules):
        self.modules, self.seen = modules, {}

    def _keep(self, name):
        def hook(module, inputs, output):
            x = _array(output[0] if isinstance(output, tuple) else output)
            if x.shape[0] != 1:
                raise Error(f"{name}: expected a batch of one, found {x.shape[0]}")
            self.seen[name] = x[0].copy()
        return hook

    def __enter__(self):
        self.hooks = [m.register_forward_hook(self._keep(name)) for name, m in self.modules.items()]
        return self.seen

    def __exit__(self, *error):
        for hook in self.hooks:
            hook.remove()
