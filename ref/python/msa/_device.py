"""The kernels of cuda/ on PyTorch tensors where they lie, through msa_cuda.h: on a GPU, or on the CPU engine, on which this is
tested; no GPU has run it yet.

A tensor's address goes to the library, the current stream of PyTorch with it; workspace and results are PyTorch's memory, so
that nothing is copied and nobody waits. Queries, keys, values and gradients of outputs are bf16, as is O; the rest float32."""

import contextlib
import ctypes as c
import functools
import math
import os
from pathlib import Path

import torch

import msa

from . import _arguments as _args
from . import _library

ALIGN = 128  # bytes, of every array
BF16 = 1  # MSA_BF16 of msa_dtype
DEVICE_FAILED = 10  # MSA_ERR_DEVICE of msa_status
# What runs a stage: the BEST of cuda/kernels.def.
KERNELS = {"index": "index/fused", "dense": "dense/hopper", "sparse": "sparse/kv_outer", "backward": "backward/hopper",
           "dense_backward": "dense_backward/hopper", "kl": "kl/kv_outer"}


class _Head(c.Structure):
    """msa_device, as far as it is used"""

    _fields_ = [("name", c.c_char_p), ("missing", c.CFUNCTYPE(c.c_char_p)), ("unused", c.c_void_p * 6),
                ("trouble", c.CFUNCTYPE(c.c_char_p))]


class _Plan(c.Structure):
    """msa_plan"""

    _fields_ = [("device", c.c_void_p), ("entry", c.c_void_p), ("shape", _library.Shape), ("out", c.c_int),
                ("workspace", c.c_size_t)]


@functools.lru_cache(None)
def _load():
    path = Path(os.environ.get("MSA_CUDA_LIBRARY") or _library.PATH.with_name("libmsa_cuda.so"))
    try:
        lib = c.CDLL(str(path))
    except OSError as e:
        raise msa.Error(f"CUDA tensors: expected {path}, which `make cuda` makes, found: {e}") from e
    lib.msa_gpu.restype = lib.msa_engine.restype = c.POINTER(_Head)
    return lib


def _room(like, sizes, dtype):
    """An empty tensor on the device of `like` that begins where a kernel wants it to."""
    bytes_ = math.prod(sizes) * torch.empty((), dtype=dtype).element_size()
    raw = torch.empty(bytes_ + ALIGN, dtype=torch.uint8, device=like.device)
    skip = -raw.data_ptr() % ALIGN
    return raw[skip:skip + bytes_].view(dtype).view(*sizes)


def _dtype(name):
    a = _library.ARRAYS[name]
    return torch.int32 if a.is_integer else torch.bfloat16 if a.is_half or name == "o" else torch.float32


def _placed(x):
    """x, or a copy of it, in C order and aligned."""
    x = x.detach().contiguous()
    return x if x.data_ptr() % ALIGN == 0 else _room(x, x.shape, x.dtype).copy_(x)


class Device:
    """`get`: msa_gpu or msa_engine."""

    def __init__(self, get):
        self.head = getattr(_load(), get)()
        if not self.head:
            raise msa.Error("CUDA tensors: expected a library that `make cuda` has made, found one without a GPU's kernels")
        why = self.head.contents.missing()
        if why:
            raise msa.Error(f"CUDA tensors: expected a GPU that runs the kernels, found {why.decode()}")

    def _shape(self, arrays, block, topk, cu_q, cu_kv):
        """That of a call, once its arrays have the types and sizes that they should have."""
        sizes = {}
        for name, x in arrays.items():
            a = _library.ARRAYS[name]
            if x is None or x.dtype != _dtype(name):
                _args.refuse(name, f"{_dtype(name)}, as the kernels of a device take it", x if x is None else x.dtype)
            wanted = [sizes.get(letter, _library.size_name(letter)) for letter in a.sizes]
            _args.fits(name, x, *wanted)
            sizes |= zip(a.sizes, x.shape)
        return msa._shape_of(sizes | {"k": topk or sizes.get("k", 1)}, block, {"cu_q": cu_q, "cu_kv": cu_kv})

    def _check(self, status, s):
        if status == DEVICE_FAILED:
            raise msa.Error(f"the device: {self.head.contents.trouble().decode()}")
        msa._check(status, s)

    def _run(self, stage, s, arrays, results, loss=None, weight=0.0):
        lib, plan = _load(), _Plan()
        self._check(lib.msa_plan_make(c.byref(plan), self.head, KERNELS[stage].encode(), c.byref(s), c.c_int(BF16)), s)
        placed = {name: _placed(x) for name, x in arrays.items()} | results
        some = next(iter(placed.values()))
        work = _room(some, [plan.workspace], torch.uint8)
        a = _library.Arrays(weight=weight, **{name: x.data_ptr() for name, x in placed.items()})
        if loss is not None:
            a.loss = loss.data_ptr()
        on_gpu = some.device.type == "cuda"
        with torch.cuda.device(some.device) if on_gpu else contextlib.nullcontext():
            stream = torch.cuda.current_stream().cuda_stream if on_gpu else None
            self._check(lib.msa_plan_run(c.byref(plan), c.byref(a), c.c_void_p(work.data_ptr()), c.c_void_p(stream)), s)

    def _results(self, s, names, like):
        sizes = {name: [_library.size(s, letter) for letter in _library.ARRAYS[name].sizes] for name in names}
        return {name: _room(like, sizes[name], _dtype(name)) for name in names}

    def select(self, qi, ki, block, topk, cu_q=None, cu_kv=None):
        arrays = {"qi": qi, "ki": ki}
        s = self._shape(arrays, block, topk, cu_q, cu_kv)
        found = self._results(s, ["ids"], qi)
        self._run("index", s, arrays, found)
        return found["ids"]

    def attend(self, q, k, v, ids, block, cu_q=None, cu_kv=None):
        arrays = {"q": q, "k": k, "v": v} | ({} if ids is None else {"ids": ids})
        s = self._shape(arrays, 128 if ids is None else block, None, cu_q, cu_kv)
        found = self._results(s, ["o", "lse"], q)
        self._run("dense" if ids is None else "sparse", s, arrays, found)
        return found["o"], found["lse"]

    def attend_backward(self, q, k, v, ids, o, lse, dout, block, cu_q=None, cu_kv=None):
        arrays = {"q": q, "k": k, "v": v, "o": o, "lse": lse, "dout": dout} | ({} if ids is None else {"ids": ids})
        s = self._shape(arrays, 128 if ids is None else block, None, cu_q, cu_kv)
        found = self._results(s, ["dq", "dk", "dv"], q)
        self._run("dense_backward" if ids is None else "backward", s, arrays, found)
        return tuple(x.to(q.dtype) for x in found.values())

    def kl(self, q, k, qi, ki, ids, lse, block, cu_q=None, cu_kv=None):
        arrays = {"q": q, "k": k, "qi": qi, "ki": ki, "lse": lse} | ({} if ids is None else {"ids": ids})
        s = self._shape(arrays, block, None, cu_q, cu_kv)
        if ids is not None:  # over all visible tokens the kernel makes its own
            arrays["index_lse"] = _index_lse(qi, ki, ids, block, s)
        found, loss = self._results(s, ["dqi", "dki"], q), _room(q, [1], torch.float64)
        self._run("kl", s, arrays, found, loss, 1.0)
        return loss[0].float(), found["dqi"], found["dki"]


def _index_lse(qi, ki, ids, block, s):
    """[Hkv,T]: log-sum-exp of the index logits over the chosen tokens; of some queries at a time, since kernels leave it to
    who calls them."""
    lse = torch.empty(ids.shape[:2], dtype=torch.float32, device=qi.device)
    cu_q, cu_kv = ([0, s.n_q], [0, s.n_kv]) if "cu_q" not in s.arrays else (s.arrays["cu_q"].tolist(), s.arrays["cu_kv"].tolist())
    for begin, end, first, last in zip(cu_q, cu_q[1:], cu_kv, cu_kv[1:]):
        keys = ki[first:last].detach().float()
        token = torch.arange(last - first, device=ki.device)
        rows = max(1, 2**25 // max(1, len(token)))
        for i in range(begin, end, rows):
            some = slice(i, min(end, i + rows))
            position = torch.arange(some.start, some.stop, device=ki.device) + (last - first) - end
            for r in range(ids.shape[0]):
                chosen = torch.zeros(len(position), len(token) // block + 2, dtype=torch.bool, device=ki.device)
                chosen.scatter_(1, torch.where(ids[r, some] < 0, len(token) // block + 1, ids[r, some]).long(), True)
                see = chosen[:, token // block] & (token <= position[:, None])
                logits = qi[some, r].detach().float() @ keys.T / qi.shape[2]**0.5
                lse[r, some] = logits.masked_fill(~see, -torch.inf).logsumexp(1)
    return lse


@functools.lru_cache(None)
def device(get):
    """That of msa_gpu or of msa_engine."""
    return Device(get)
