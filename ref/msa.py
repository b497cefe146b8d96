"""MSA from Python: every stage and kernel of libmsa.so on NumPy arrays or PyTorch CPU tensors.

    import msa                                   # with ref/ or PREFIX/lib/python on sys.path
    ids = msa.index(qi, ki, block=128, topk=16)  # int32 [Hkv,T,k]
    o, lse = msa.sparse(q, k, v, ids, block=128)
    o, lse = msa.sparse(q, k, v, ids, block=128, kernel="sparse/blocks")

Arrays are token-major as in msa.h: q [T,Hq,dh]  k,v [S,Hkv,dh]  qi [T,Hkv,di]  ki [S,di]. A C-ordered float32
array, or a PyTorch tensor that is one, is used where it lies. Others are copied into one first: float64, float16
and bfloat16 become float32, and integers of any width (ids, lengths, page tables) int32; what does not fit there,
or is of another kind, is refused, as is every shape that does not belong to the others: msa.Error, a ValueError,
says which argument it is, what was expected and what was found. Results are NumPy arrays; torch.from_numpy() makes
tensors of them, again without a copy.

`kernel` is "fast" (the default: the best on a CPU), "ref" (the reference) or the name of a kernel, "STAGE/NAME";
kernels() lists them. cu_q and cu_kv [R+1] pack several sequences; len_q and len_kv [R] say how many of the queries
and keys of each are no padding. The library is the file that MSA_LIBRARY names, or libmsa.so in build/ beside ref/,
or where `make install` put this file, in the directory above it.
"""

import ctypes as c

import numpy as np

import msa_arguments as _args
import msa_library as _library
from msa_arguments import Error
from msa_library import STAGES, Shape

_lib = _library.lib


def kernels():
    """[(name, back end, idea)]"""
    return [(name, k.backend.decode(), k.idea.decode()) for name, k in _library.KERNELS.items()]


# ---- Arguments -------------------------------------------------------------------------------------------


def _pair(q, k, half=False):
    q = _args.array("q", q, "T", "Hq", "dh")
    return q, (_args.bits if half else _args.array)("k", k, "S", "Hkv", q.shape[2])


def _main(q, k, v, half=False):
    q, k = _pair(q, k, half)
    return q, k, (_args.bits if half else _args.array)("v", v, *k.shape)


def _index(qi, ki, n_q="T", n_kv="S", groups="Hkv", half=False):
    ki = (_args.bits if half else _args.array)("ki", ki, n_kv, "di")
    return _args.array("qi", qi, n_q, groups, ki.shape[1]), ki


def _ids(ids, groups="Hkv", n_q="T"):
    return None if ids is None else _args.integers("ids", ids, groups, n_q, "k")


def _blocks(ids):
    return 1 if ids is None else ids.shape[2]


def _optional(what, x, *sizes):
    return None if x is None else _args.array(what, x, *sizes)


def _pointer(x):
    return None if x is None else c.c_void_p(x.ctypes.data)


def _check(status, s=None):
    if status:
        at = "" if s is None else (f" (T={s.n_q} S={s.n_kv} heads {s.n_heads}:{s.n_kv_heads} "
                                   f"widths {s.d_head}:{s.d_index} block {s.block} k {s.topk} sequences {s.n_seqs})")
        raise Error(_lib.msa_strerror(status).decode() + at)


def _shape(n_q, n_kv, heads, groups, d_head, d_index, block, topk, cu_q=None, cu_kv=None, len_q=None, len_kv=None):
    """A checked msa_shape; its arrays live as long as it does."""
    n_q, n_kv, heads, groups, d_head, d_index, block, topk = map(
        _args.integer, ("T", "S", "Hq", "Hkv", "dh", "di", "block", "topk"),
        (n_q, n_kv, heads, groups, d_head, d_index, block, topk))
    s = Shape(n_q, n_kv, heads, groups, d_head, d_index, block, topk, 1)
    if (cu_q is None) != (cu_kv is None):
        _args.refuse("cu_q and cu_kv", "both or none", "one of them")
    s.arrays = {}
    if cu_q is not None:
        s.arrays["cu_q"] = _args.integers("cu_q", cu_q, "R+1")
        s.n_seqs = _args.integer("cu_q: sequences", len(s.arrays["cu_q"]) - 1)
        s.arrays["cu_kv"] = _args.integers("cu_kv", cu_kv, s.n_seqs + 1)
    for name, x in ("len_q", len_q), ("len_kv", len_kv):
        if x is not None:
            s.arrays[name] = _args.integers(name, x, s.n_seqs)
    for name, x in s.arrays.items():
        setattr(s, name, x.ctypes.data)
    _check(_lib.msa_check_shape(c.byref(s)), s)
    return s


def _main_shape(q, k, block, topk, qi=None, seqs={}):
    """That of the Main Branch; without index tensors their width is as good as any."""
    return _shape(*q.shape[:1], *k.shape[:1], q.shape[1], k.shape[1], q.shape[2], (q if qi is None else qi).shape[2],
                  block, topk, **seqs)


def _index_shape(qi, ki, block, topk, seqs):
    return _shape(qi.shape[0], ki.shape[0], qi.shape[1], qi.shape[1], ki.shape[1], ki.shape[1], block, topk, **seqs)


def _new_ids(s):
    return np.empty((s.n_kv_heads, s.n_q, s.topk), np.int32)


def _find(stage, kernel):
    i = STAGES.index(stage)
    if kernel == "fast" or kernel == "ref":
        return (_library.FAST if kernel == "fast" else _library.REF).stage[i].contents
    if isinstance(kernel, str) and kernel in _library.KERNELS and _library.KERNELS[kernel].stage == i:
        return _library.KERNELS[kernel]
    _args.refuse("kernel", f"fast, ref or {stage}/NAME", repr(kernel))


def _run(stage, kernel, s, *, weight=0.0, pages=None, **arrays):
    k = _find(stage, kernel)
    work = np.empty(k.workspace(s), np.uint8)
    a = _library.Arrays(weight=weight, **{name: x if x is None else x.ctypes.data for name, x in arrays.items()})
    if pages is not None:
        a.pages = pages
    _check(k.run(c.byref(s), c.byref(a), _pointer(work)), s)


# ---- Stages ----------------------------------------------------------------------------------------------
#
# `seqs`: cu_q, cu_kv, len_q, len_kv.


def dense(q, k, v, *, kernel="fast", **seqs):
    """Causal grouped-query attention: o [T,Hq,dh], lse [T,Hq]."""
    q, k, v = _main(q, k, v)
    s = _main_shape(q, k, 128, 1, seqs=seqs)
    o, lse = np.empty_like(q), np.empty(q.shape[:2], np.float32)
    _run("dense", kernel, s, q=q, k=k, v=v, o=o, lse=lse)
    return o, lse


def scores(qi, ki, *, block, kernel="fast", **seqs):
    """Block scores [Hkv,T,B] of the Index Branch."""
    qi, ki = _index(qi, ki)
    s = _index_shape(qi, ki, block, 1, seqs)
    m = np.empty((s.n_kv_heads, s.n_q, _lib.msa_n_blocks(c.byref(s))), np.float32)
    _run("index", kernel, s, qi=qi, ki=ki, scores=m)
    return m


def index(qi, ki, *, block, topk, kernel="fast", **seqs):
    """The selection of the Index Branch: ids [Hkv,T,k], ascending, then -1."""
    qi, ki = _index(qi, ki)
    s = _index_shape(qi, ki, block, topk, seqs)
    ids = _new_ids(s)
    _run("index", kernel, s, qi=qi, ki=ki, ids=ids)
    return ids


def index_lse(qi, ki, ids=None, *, block, **seqs):
    """[Hkv,T]: log-sum-exp of the index logits over the selection, or over all visible tokens."""
    qi, ki = _index(qi, ki)
    ids = _ids(ids, qi.shape[1], qi.shape[0])
    s = _index_shape(qi, ki, block, _blocks(ids), seqs)
    lse = np.empty((s.n_kv_heads, s.n_q), np.float32)
    _check(_lib.msa_index_lse(c.byref(s), _pointer(qi), _pointer(ki), _pointer(ids), _pointer(lse)), s)
    return lse


def topk(m, *, n_kv, block, topk, kernel="fast", **seqs):
    """The selection from scores [Hkv,T,B]."""
    m = _args.array("scores", m, "Hkv", "T", "B")
    s = _shape(m.shape[1], n_kv, m.shape[0], m.shape[0], 1, 1, block, topk, **seqs)
    _args.fits("scores", m, s.n_kv_heads, s.n_q, _lib.msa_n_blocks(c.byref(s)))
    ids = _new_ids(s)
    _run("topk", kernel, s, scores=m, ids=ids)
    return ids


def sparse(q, k, v, ids, *, block, kernel="fast", **seqs):
    """Attention over the selected blocks: o [T,Hq,dh], lse [T,Hq]."""
    q, k, v = _main(q, k, v)
    ids = _args.integers("ids", ids, k.shape[1], q.shape[0], "k")
    s = _main_shape(q, k, block, ids.shape[2], seqs=seqs)
    o, lse = np.empty_like(q), np.empty(q.shape[:2], np.float32)
    _run("sparse", kernel, s, q=q, k=k, v=v, ids=ids, o=o, lse=lse)
    return o, lse


def _is_half(k, kernel):
    half = getattr(k, "dtype", None) == np.uint16
    if half and kernel != "fast":
        _args.refuse("kernel", "fast, which alone reads bf16", repr(kernel))
    return half


def _run_half(run, stage, s, *arrays):
    work = np.empty(_find(stage, "fast").workspace(s), np.uint8)
    _check(run(c.byref(s), *map(_pointer, arrays), _pointer(work)), s)


def decode(q, k, v, qi, ki, *, block, topk, kernel="fast", **seqs):
    """A step of generation: ids, o, lse. Keys, values and index keys may be uint16, the bits of bf16."""
    half = _is_half(k, kernel)
    q, k, v = _main(q, k, v, half)
    qi, ki = _index(qi, ki, q.shape[0], k.shape[0], k.shape[1], half)
    s = _main_shape(q, k, block, topk, qi, seqs)
    ids, o, lse = _new_ids(s), np.empty_like(q), np.empty(q.shape[:2], np.float32)
    if half:
        _run_half(_lib.msa_fast_decode_bf16, "decode", s, q, k, v, qi, ki, ids, o, lse)
    else:
        _run("decode", kernel, s, q=q, k=k, v=v, qi=qi, ki=ki, ids=ids, o=o, lse=lse)
    return ids, o, lse


def dense_decode(q, k, v, *, block=128, kernel="fast", **seqs):
    """The same step by dense attention: o, lse. Keys and values may be uint16, as for decode."""
    half = _is_half(k, kernel)
    q, k, v = _main(q, k, v, half)
    s = _main_shape(q, k, block, 1, seqs=seqs)
    o, lse = np.empty_like(q), np.empty(q.shape[:2], np.float32)
    if half:
        _run_half(_lib.msa_fast_dense_decode_bf16, "dense_decode", s, q, k, v, o, lse)
    else:
        _run("dense_decode", kernel, s, q=q, k=k, v=v, o=o, lse=lse)
    return o, lse


def decode_pages(q, k, v, table, lens, qi=None, ki=None, *, topk=None, block=None, len_q=None, kernel="fast"):
    """A step of generation over pages: q [R,Tq,Hq,dh], qi [R,Tq,Hkv,di], k and v [P,page,Hkv,dh], ki [P,page,di],
    table [R,max_pages], lens [R] with the new tokens, which the pages hold already, or 0; len_q [R] where not all of
    the Tq are. A page divides the block or is divided by it; block None: a page. ids [Hkv,R*Tq,k], o, lse; without topk dense attention: o, lse."""
    q, k = _args.array("q", q, "R", "Tq", "Hq", "dh"), _args.array("k", k, "P", "page", "Hkv", "dh")
    requests, n, heads, d = q.shape
    pages, page, groups, _ = _args.fits("k", k, "P", "page", "Hkv", d).shape
    v, table = _args.array("v", v, *k.shape), _args.integers("table", table, requests, "max_pages")
    lens = _args.integers("lens", lens, requests)
    if topk is not None:
        ki = _args.array("ki", ki, pages, page, "di")
        qi = _args.array("qi", qi, requests, n, groups, ki.shape[2])
    most = table.shape[1] * page  # keys that a request has room for
    cu = np.arange(requests + 1, dtype=np.int64)
    s = _shape(requests * n, requests * most, heads, groups, d, d if topk is None else ki.shape[2],
               page if block is None else block, 1 if topk is None else topk, cu * n, cu * most, len_q)
    p = _library.Pages(pages, table.ctypes.data, lens.ctypes.data, None, None, page)
    _check(_lib.msa_check_pages(c.byref(s), c.byref(p)), s)
    o, lse = np.empty_like(q), np.empty(q.shape[:3], np.float32)
    if topk is None:
        _run("dense_decode", kernel, s, pages=p, q=q, k=k, v=v, o=o, lse=lse)
        return o, lse
    ids = _new_ids(s)
    _run("decode", kernel, s, pages=p, q=q, k=k, v=v, qi=qi, ki=ki, ids=ids, o=o, lse=lse)
    return ids, o, lse


def prefill(q, k, v, qi, ki, *, block, topk, kernel="fast", **seqs):
    """The whole attention, index and sparse: ids, o, lse."""
    q, k, v = _main(q, k, v)
    qi, ki = _index(qi, ki, q.shape[0], k.shape[0], k.shape[1])
    s = _main_shape(q, k, block, topk, qi, seqs)
    ids, o, lse = _new_ids(s), np.empty_like(q), np.empty(q.shape[:2], np.float32)
    _run("prefill", kernel, s, q=q, k=k, v=v, qi=qi, ki=ki, ids=ids, o=o, lse=lse)
    return ids, o, lse


def backward(q, k, v, dout, ids=None, *, o=None, lse=None, block=128, kernel="fast", **seqs):
    """dq, dk, dv of the Main Branch; ids None: dense attention."""
    q, k, v = _main(q, k, v)
    dout, ids = _args.array("dout", dout, *q.shape), _ids(ids, k.shape[1], q.shape[0])
    o, lse = _optional("o", o, *q.shape), _optional("lse", lse, *q.shape[:2])
    s = _main_shape(q, k, block, _blocks(ids), seqs=seqs)
    dq, dk, dv = np.empty_like(q), np.empty_like(k), np.empty_like(v)
    _run("backward", kernel, s, q=q, k=k, v=v, ids=ids, o=o, lse=lse, dout=dout, dq=dq, dk=dk, dv=dv)
    return dq, dk, dv


def kl(q, k, qi, ki, ids=None, *, block=128, weight=1.0, kernel="fast", **seqs):
    """The selector's loss and its gradients: loss, dqi, dki; ids None: over all visible tokens."""
    q, k = _pair(q, k)
    qi, ki = _index(qi, ki, q.shape[0], k.shape[0], k.shape[1])
    ids, loss = _ids(ids, k.shape[1], q.shape[0]), np.zeros(())
    s = _main_shape(q, k, block, _blocks(ids), qi, seqs)
    dqi, dki = np.empty_like(qi), np.empty_like(ki)
    _run("kl", kernel, s, q=q, k=k, qi=qi, ki=ki, ids=ids, weight=_args.number("weight", weight), loss=loss, dqi=dqi,
         dki=dki)
    return float(loss), dqi, dki


def reverse(ids, *, n_kv, block, kernel="fast"):
    """first [Hkv,B+1], entries [Hkv,T*k] and items [n,4] of one sequence: which queries chose a block."""
    ids = _args.integers("ids", ids, "Hkv", "T", "k")
    groups, n_q, k = ids.shape
    s = _shape(n_q, n_kv, groups, groups, 1, 1, block, k)
    _check(_lib.msa_check_ids(c.byref(s), _pointer(ids)), s)
    first = np.empty((groups, _lib.msa_n_blocks(c.byref(s)) + 1), np.int32)
    entries = np.empty((groups, n_q * k), np.uint32)
    items = np.empty((_lib.msa_first_item(c.byref(s), 1), 4), np.int32)
    _run("reverse", kernel, s, ids=ids, first=first, entries=entries, items=items)
    return first, entries, items


class _Recall(c.Structure):
    _fields_ = [("rows", c.c_int64), ("block_recall", c.c_double), ("score_recall", c.c_double)]


def recall(q, k, ids, *, block, **seqs):
    """(pairs, block recall, score recall) of a selection against what full attention weighs most."""
    q, k = _pair(q, k)
    ids, found = _args.integers("ids", ids, k.shape[1], q.shape[0], "k"), _Recall()
    s = _main_shape(q, k, block, ids.shape[2], seqs=seqs)
    work = np.empty(_lib.msa_recall_workspace(c.byref(s)), np.uint8)
    _check(_lib.msa_recall(c.byref(s), *map(_pointer, (q, k, ids)), None, c.byref(found), _pointer(work)), s)
    return found.rows, found.block_recall, found.score_recall


# ---- Norm and rotary -----------------------------------------------------------------------------------------


def rmsnorm(x, gain, eps=1e-6):
    """Gemma-form RMSNorm over the last axis: x / rms(x) * (1 + gain)."""
    x = _args.plain("x", x)
    x = _args.array("x", x, *x.shape) if x.ndim else _args.fits("x", x, "...", "d")
    gain, y = _args.array("gain", gain, x.shape[-1]), np.empty_like(x)
    _check(_lib.msa_rmsnorm(c.c_int64(x.size // x.shape[-1]), x.shape[-1], _args.number("eps", eps), _pointer(x),
                            _pointer(gain), _pointer(y)))
    return y


def rope(x, rot, theta=5e6, pos=None):
    """Partial rotary embedding of x [n,heads,d] (or [n,d]), half-split pairs; pos counts from 0 unless given."""
    x = _args.plain("x", x)
    y = np.array(_args.array("x", x, "n", "d") if x.ndim == 2 else _args.array("x", x, "n", "heads", "d"))
    pos = np.arange(len(y), dtype=np.int32) if pos is None else _args.integers("pos", pos, len(y))
    heads = y.shape[1] if y.ndim == 3 else 1
    _check(_lib.msa_rope(c.c_int64(len(y)), heads, y.shape[-1], _args.integer("rot", rot, 0), _args.number("theta", theta),
                         _pointer(pos), c.c_bool(False), _pointer(y)))
    return y
