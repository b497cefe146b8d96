"""MSA from Python: every stage and kernel of libmsa.so on NumPy arrays or PyTorch CPU tensors.

    import msa                                   # pip install ./ref/python, or PREFIX/lib/python on sys.path
    ids = msa.index(qi, ki, block=128, topk=16)  # int32 [Hkv,T,k]
    o, lse = msa.sparse(q, k, v, ids, block=128)
    o, lse = msa.sparse(q, k, v, ids, block=128, kernel="sparse/blocks")

Each stage of stages.def is a function; help(msa.sparse) says what it takes and gives.

Arrays are token-major as in msa.h: q [T,Hq,dh]  k,v [S,Hkv,dh]  qi [T,Hkv,di]  ki [S,di]. A C-ordered float32
array, or a PyTorch tensor that is one, is used where it lies. Others are copied into one first: float64, float16
and bfloat16 become float32, and integers of any width (ids, lengths, page tables) int32; what does not fit there,
or is of another kind, is refused, as is every shape that does not belong to the others: msa.Error, a ValueError,
says which argument it is, what was expected and what was found. Results are NumPy arrays; torch.from_numpy() makes
tensors of them, again without a copy.

Where q, k, v, qi, ki and dout, all that a call is given of them, are bf16 (tensors of torch.bfloat16, or uint16
arrays, their bits), "fast" is the kernel of bf16 tensors, STAGE/amx: it multiplies bf16 where it lies, adds up
float32, and its results are float32 as ever. tensor.float() asks for float32's arithmetic.

`kernel` is "fast" (the default: the best on a CPU), "ref" (the reference) or the name of a kernel, "STAGE/NAME";
kernels() lists them. cu_q and cu_kv [R+1] pack several sequences; len_q and len_kv [R] say how many of the queries
and keys of each are no padding.

layer() runs an attention layer of a checkpoint of MiniMax-M3, watch() looks at what the index of such a model chooses; both
run the program `msa` that lies beside the library, or that MSA_PROGRAM names.
msa.torch has operators of PyTorch with gradients, msa.transformers lets a model of Hugging Face attend by them,
msa.capture keeps what a layer of one computes. The library is the file that MSA_LIBRARY names, or libmsa.so beside this
file, as pip puts it there, or of the installation or the build that this file is a part of.
"""

import ctypes as c
import inspect

import numpy as np

from . import _arguments as _args
from . import _library
from ._arguments import Error
from ._layer import layer
from ._watch import Group, Watched, watch
from ._library import Shape

_lib = _library.lib
STAGES = list(_library.STAGES)


def kernels():
    """[(name, back end, idea)]"""
    return [(name, k.backend.decode(), k.idea.decode()) for name, k in _library.KERNELS.items()]


# ---- Calls -----------------------------------------------------------------------------------------------


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


def _take(names, given, bits=()):
    """The arrays, checked: the first that mentions a size sets it, the others agree. Those in `bits` are bf16."""
    arrays, sizes = {}, {}
    for name in names:
        a, x = _library.ARRAYS[name], given.get(name)
        expected = [sizes.get(letter, _library.size_name(letter)) for letter in a.sizes]
        check = _args.integers if a.is_integer else _args.bits if name in bits else _args.array
        arrays[name] = x = check(name, x, *expected)
        for letter, n in zip(a.sizes, x.shape):
            sizes.setdefault(letter, n)
    return arrays, sizes


_LETTER = {"n_q": "T", "n_kv": "S", "n_heads": "H", "n_kv_heads": "G", "d_head": "d", "d_index": "i", "topk": "k"}


def _shape_of(sizes, block, seqs={}, **untold):
    """That of a call, whose arrays tell some sizes by their letter; what nothing says is as good as any."""
    get = (sizes | {_LETTER[field]: n for field, n in untold.items()}).get
    groups = get("G", get("H", 1))
    return _shape(get("T"), get("S"), get("H", groups), groups, get("d", get("i", 1)), get("i", get("d", 1)), block,
                  get("k", 1), **seqs)


def _empty(s, name):
    a = _library.ARRAYS[name]
    return np.empty([_library.size(s, letter) for letter in a.sizes], np.int32 if a.is_integer else np.float32)


def _halves(names, given):
    """The tensors of a call that may be bf16, if all that are given are; else none of them."""
    names = [a for a in names if _library.ARRAYS[a].is_half and given.get(a) is not None]
    return names if all(_args.is_half(given[a]) for a in names) else []


def _find(stage, kernel, halves=()):
    if halves and isinstance(kernel, str) and kernel == "fast":
        kernel = stage + "/amx"
    if isinstance(kernel, str) and kernel in ("fast", "ref"):
        return (_library.FAST if kernel == "fast" else _library.REF).stage[STAGES.index(stage)].contents
    if isinstance(kernel, str) and kernel.startswith(stage + "/") and kernel in _library.KERNELS:
        return _library.KERNELS[kernel]
    _args.refuse("kernel", f"fast, ref or {stage}/NAME", repr(kernel))


def _run(k, s, arrays, half, pages=None, weight=0.0, loss=None):
    work = np.empty(k.workspace(s), np.uint8)
    a = _library.Arrays(weight=weight, **{name: x.ctypes.data for name, x in arrays.items()})
    if pages is not None:
        a.pages = pages
    if loss is not None:
        a.loss = loss.ctypes.data
    _check((k.run_half if half else k.run)(c.byref(s), c.byref(a), _pointer(work)), s)


def _prepare(stage, given, outputs=None, *, block=128, seqs={}, bits=(), **untold):
    """The shape, the inputs and the outputs of a stage; of what may be left out, inputs that are None are."""
    line = _library.STAGES[stage]
    arrays, sizes = _take([a for a in line.inputs if a not in line.optional or given.get(a) is not None], given, bits)
    s = _shape_of(sizes, block, seqs, **untold)
    for name, x in arrays.items():
        _args.fits(name, x, *(_library.size(s, letter) for letter in _library.ARRAYS[name].sizes))
    if "ids" in arrays:
        _check(_lib.msa_check_ids(c.byref(s), _pointer(arrays["ids"])), s)
    return s, arrays, {name: _empty(s, name) for name in (line.outputs if outputs is None else outputs)}


def _stage(stage, given, outputs=None, *, kernel="fast", weight=0.0, loss=None, **rest):
    """Calls a stage as stages.def has it: its outputs, or those that are named, a tuple unless it is one."""
    halves = _halves(_library.STAGES[stage].inputs, given)
    k = _find(stage, kernel, halves)
    halves = halves if k.run_half else []
    s, arrays, found = _prepare(stage, given, outputs, bits=halves, **rest)
    _run(k, s, arrays | found, bool(halves), weight=weight, loss=loss)
    return tuple(found.values()) if len(found) != 1 else next(iter(found.values()))


# ---- Stages ----------------------------------------------------------------------------------------------
#
# `seqs` are these four.

_SEQS = "cu_q", "cu_kv", "len_q", "len_kv"


def _text(names):
    return ", ".join(f"{a} [{','.join(map(_library.size_name, _library.ARRAYS[a].sizes))}]" for a in names)


def _function(stage):
    """Of a stage's arrays those that it has to have, then the others, and by name what these do not tell."""
    line = _library.STAGES[stage]
    needed = [a for a in line.inputs if a not in line.optional]
    spare = [a for a in line.inputs if a not in needed]
    letters = lambda names: set("".join(_library.ARRAYS[a].sizes for a in names))
    told, asked = letters(needed), letters(needed + line.outputs)
    untold = (asked | set("TS")) - told
    named = {field: inspect.Parameter.empty for field, letter in _LETTER.items() if letter in untold}
    named |= {"block": inspect.Parameter.empty if asked & set("kBFW") else 128, "kernel": "fast"} | dict.fromkeys(_SEQS)
    signature = inspect.Signature(
        [inspect.Parameter(a, inspect.Parameter.POSITIONAL_OR_KEYWORD) for a in needed] +
        [inspect.Parameter(a, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None) for a in spare] +
        [inspect.Parameter(a, inspect.Parameter.KEYWORD_ONLY, default=x) for a, x in named.items()])

    def call(*args, **named):
        rest = signature.bind(*args, **named).arguments
        given = {a: rest.pop(a) for a in line.inputs if a in rest}
        seqs = {a: rest.pop(a) for a in _SEQS if a in rest}
        return _stage(stage, given, seqs=seqs, **rest)

    call.__name__ = call.__qualname__ = stage
    call.__signature__ = signature
    call.__doc__ = (f"{_text(line.outputs)} from {_text(needed)}{'; may be None: ' if spare else ''}{_text(spare)}. "
                    f"Reference: {_library.KERNELS[stage + '/reference'].idea.decode()}.")
    return call


globals().update({stage: _function(stage) for stage in STAGES})

# What is more, or another thing, than its line of stages.def.


def scores(qi, ki, *, block, kernel="fast", **seqs):
    """Block scores [Hkv,T,B] of the Index Branch."""
    return _stage("index", {"qi": qi, "ki": ki}, ["scores"], block=block, kernel=kernel, seqs=seqs)


def index(qi, ki, *, block, topk, kernel="fast", **seqs):
    """The selection of the Index Branch: ids [Hkv,T,k], ascending, then -1."""
    return _stage("index", {"qi": qi, "ki": ki}, ["ids"], block=block, topk=topk, kernel=kernel, seqs=seqs)


def index_lse(qi, ki, ids=None, *, block, **seqs):
    """[Hkv,T]: log-sum-exp of the index logits over the selection, or over all visible tokens."""
    a, sizes = _take(("qi", "ki") if ids is None else ("qi", "ki", "ids"), {"qi": qi, "ki": ki, "ids": ids})
    s = _shape_of(sizes, block, seqs)
    lse = _empty(s, "index_lse")
    _check(_lib.msa_index_lse(c.byref(s), *map(_pointer, (a["qi"], a["ki"], a.get("ids"), lse))), s)
    return lse


def topk(m, *, n_kv, block, topk, kernel="fast", **seqs):
    """The selection from scores [Hkv,T,B]."""
    return _stage("topk", {"scores": m}, n_kv=n_kv, block=block, topk=topk, kernel=kernel, seqs=seqs)


def _step(stage, run_half, given, kernel, **rest):
    """A step of generation. Where k is bf16 and q float32, so are all keys and values: these are widened."""
    if kernel != "fast" or _args.is_half(given["q"]) or not _args.is_half(given["k"]):
        return _stage(stage, given, kernel=kernel, **rest)
    s, arrays, found = _prepare(stage, given, bits=("k", "v", "ki"), **rest)
    work = np.empty(_find(stage, "fast").workspace(s), np.uint8)
    _check(run_half(c.byref(s), *map(_pointer, (arrays | found).values()), _pointer(work)), s)
    return tuple(found.values())


def decode(q, k, v, qi, ki, *, block, topk, kernel="fast", **seqs):
    """A step of generation: ids, o, lse. Keys, values and index keys may be bf16 beside float32 queries."""
    if ki is None:
        _args.refuse("ki", "index keys [S,di]", "None")
    return _step("decode", _lib.msa_fast_decode_bf16, {"q": q, "k": k, "v": v, "qi": qi, "ki": ki}, kernel, block=block,
                 topk=topk, seqs=seqs)


def dense_decode(q, k, v, *, block=128, kernel="fast", **seqs):
    """The same step by dense attention: o, lse. Keys and values may be bf16, as for decode."""
    return _step("dense_decode", _lib.msa_fast_dense_decode_bf16, {"q": q, "k": k, "v": v}, kernel, block=block, seqs=seqs)


def decode_pages(q, k, v, table, lens, qi=None, ki=None, *, topk=None, block=None, len_q=None, kernel="fast"):
    """A step of generation over pages: q [R,Tq,Hq,dh], qi [R,Tq,Hkv,di], k and v [P,page,Hkv,dh], ki [P,page,di],
    table [R,max_pages], lens [R] with the new tokens, which the pages hold already, or 0; len_q [R] where not all of
    the Tq are. A page divides the block or is divided by it; block None: a page. ids [Hkv,R*Tq,k], o, lse; without topk dense attention: o, lse."""
    stage = "dense_decode" if topk is None else "decode"
    halves = _halves(_library.STAGES[stage].inputs, {"q": q, "k": k, "v": v, "qi": qi, "ki": ki})
    run = _find(stage, kernel, halves)
    half = bool(halves and run.run_half)
    take = _args.bits if half else _args.array
    q, k = take("q", q, "R", "Tq", "Hq", "dh"), take("k", k, "P", "page", "Hkv", "dh")
    requests, n, heads, d = q.shape
    pages, page, groups, _ = _args.fits("k", k, "P", "page", "Hkv", d).shape
    v, table = take("v", v, *k.shape), _args.integers("table", table, requests, "max_pages")
    lens = _args.integers("lens", lens, requests)
    if topk is not None:
        ki = take("ki", ki, pages, page, "di")
        qi = take("qi", qi, requests, n, groups, ki.shape[2])
    most = table.shape[1] * page  # keys that a request has room for
    cu = np.arange(requests + 1, dtype=np.int64)
    s = _shape(requests * n, requests * most, heads, groups, d, d if topk is None else ki.shape[2],
               page if block is None else block, 1 if topk is None else topk, cu * n, cu * most, len_q)
    p = _library.Pages(pages, table.ctypes.data, lens.ctypes.data, None, None, page)
    _check(_lib.msa_check_pages(c.byref(s), c.byref(p)), s)
    found = {"ids": _empty(s, "ids")} if topk is not None else {}
    found |= {"o": np.empty(q.shape, np.float32), "lse": np.empty(q.shape[:3], np.float32)}
    index = {"qi": qi, "ki": ki} if topk is not None else {}
    _run(run, s, {"q": q, "k": k, "v": v} | index | found, half, pages=p)
    return tuple(found.values())


def kl(q, k, qi, ki, ids=None, lse=None, index_lse=None, *, block=128, weight=1.0, kernel="fast", **seqs):
    """The selector's loss and its gradients: loss, dqi, dki; ids None: over all visible tokens. lse and index_lse are
    those of the same tokens, if they are known."""
    loss = np.zeros(())
    given = {"q": q, "k": k, "qi": qi, "ki": ki, "ids": ids, "lse": lse, "index_lse": index_lse}
    dqi, dki = _stage("kl", given, block=block, weight=_args.number("weight", weight), loss=loss, kernel=kernel, seqs=seqs)
    return float(loss), dqi, dki


def reverse(ids, *, n_kv, block, kernel="fast"):
    """first [Hkv,B+1], entries [Hkv,T*k] and items [n,4] of one sequence: which queries chose a block."""
    first, entries, items = _stage("reverse", {"ids": ids}, n_kv=n_kv, block=block, kernel=kernel)
    return first[0], entries.reshape(len(entries), -1).view(np.uint32), items


# ---- What a selection saves and loses: msa_quality.h ---------------------------------------------------------


class _Recall(c.Structure):
    _fields_ = [("rows", c.c_int64), ("block_recall", c.c_double), ("score_recall", c.c_double)]


def _recall(q, k, ids, block, seqs, per_query):
    a, sizes = _take(("q", "k", "ids"), {"q": q, "k": k, "ids": ids})
    s, found = _shape_of(sizes, block, seqs), _Recall()
    rows = np.empty((2, s.n_kv_heads, s.n_q), np.float32) if per_query else None
    work = np.empty(_lib.msa_recall_workspace(c.byref(s)), np.uint8)
    _check(_lib.msa_recall(c.byref(s), *map(_pointer, a.values()), _pointer(rows), c.byref(found), _pointer(work)), s)
    return rows if per_query else (found.rows, found.block_recall, found.score_recall)


def recall(q, k, ids, *, block, **seqs):
    """(pairs, block recall, score recall) of a selection against what full attention weighs most."""
    return _recall(q, k, ids, block, seqs, False)


def recall_of_queries(q, k, ids, *, block, **seqs):
    """[2,Hkv,T]: block recall, then score recall, of every query; 1 where a query sees no more blocks than it chooses."""
    return _recall(q, k, ids, block, seqs, True)


def block_mass(q, k, *, block, **seqs):
    """[Hkv,T,B]: the weight of a block under full causal attention, a mean over the heads of the group."""
    a, sizes = _take(("q", "k"), {"q": q, "k": k})
    s = _shape_of(sizes, block, seqs)
    mass, work = _empty(s, "scores"), np.empty(_lib.msa_recall_workspace(c.byref(s)), np.uint8)
    _check(_lib.msa_block_mass(c.byref(s), *map(_pointer, a.values()), _pointer(mass), _pointer(work)), s)
    return mass


class _Cost(c.Structure):
    _fields_ = [(name, c.c_double) for name in
                ("flop_gqa", "flop_msa", "flop_ratio", "index_share", "bytes_gqa", "bytes_msa", "bytes_ratio", "bytes_ratio_8",
                 "flop_ratio_8", "flop_settle", "flop_ratio_exact8", "bytes_settle", "bytes_ratio_exact8")]


def cost(n, *, n_heads=64, n_kv_heads=4, d_head=128, d_index=128, block=128, topk=16):
    """The paper's cost model of n tokens, {"flop_gqa": ..., "flop_msa", "flop_ratio", ...}: msa_cost_row of msa_quality.h says
    what each is. The sizes are MiniMax-M3's unless given."""
    s, row = _shape(1, 1, n_heads, n_kv_heads, d_head, d_index, block, topk), _Cost()
    _check(_lib.msa_cost(c.byref(s), c.c_int64(_args.integer("n", n)), c.byref(row)), s)
    return {name: getattr(row, name) for name, _ in row._fields_}


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
