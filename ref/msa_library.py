"""libmsa.so for msa.py: its structures, and its kernels."""

import ctypes as c
import os
from pathlib import Path


class Shape(c.Structure):
    """msa_shape"""

    _fields_ = [("n_q", c.c_int64), ("n_kv", c.c_int64), ("n_heads", c.c_int), ("n_kv_heads", c.c_int),
                ("d_head", c.c_int), ("d_index", c.c_int), ("block", c.c_int), ("topk", c.c_int),
                ("n_seqs", c.c_int), ("cu_q", c.c_void_p), ("cu_kv", c.c_void_p), ("len_q", c.c_void_p),
                ("len_kv", c.c_void_p)]


class Pages(c.Structure):
    """msa_pages"""

    _fields_ = [("n_pages", c.c_int64), ("table", c.c_void_p), ("lens", c.c_void_p), ("ki8", c.c_void_p),
                ("scale", c.c_void_p), ("page", c.c_int)]


def load():
    here = Path(__file__).resolve().parent.parent  # the project, or the lib/ of an installation
    built, installed = here / "build" / "libmsa.so", here / "libmsa.so"
    lib = c.CDLL(os.environ.get("MSA_LIBRARY") or str(installed if installed.exists() else built))
    lib.msa_strerror.restype = lib.msa_stage_name.restype = lib.msa_array_name.restype = c.c_char_p
    lib.msa_n_blocks.restype = lib.msa_first_item.restype = c.c_int64
    lib.msa_recall_workspace.restype = lib.msa_workspace.restype = c.c_size_t
    return lib


lib = load()


def _names(name):
    """The stages, or the arrays, that the library knows."""
    i = 0
    while (text := name(i)) not in (None, b"unknown"):
        yield text.decode()
        i += 1


STAGES = list(_names(lib.msa_stage_name))


class Arrays(c.Structure):
    """msa_arrays; what only a device reads is left out"""

    _fields_ = [(name, c.c_void_p) for name in _names(lib.msa_array_name)] + [
        ("loss", c.c_void_p), ("weight", c.c_double), ("pages", Pages), ("of_devices", c.c_void_p * 8)]


class Kernel(c.Structure):
    """msa_kernel"""

    _fields_ = [("stage", c.c_int), ("name", c.c_char_p), ("backend", c.c_char_p), ("constraints", c.c_char_p),
                ("idea", c.c_char_p), ("precision", c.c_int), ("best", c.c_bool), ("own_rule", c.c_bool),
                ("workspace", c.CFUNCTYPE(c.c_size_t, c.POINTER(Shape))),
                ("run", c.CFUNCTYPE(c.c_int, c.POINTER(Shape), c.POINTER(Arrays), c.c_void_p))]


class _Ops(c.Structure):
    """msa_ops"""

    _fields_ = [("stage", c.POINTER(Kernel) * len(STAGES)), ("gemm", c.c_void_p)]


REF, FAST = _Ops.in_dll(lib, "msa_ref_ops"), _Ops.in_dll(lib, "msa_fast_ops")


def _table():
    """Name -> kernel, for every kernel of the library; the reference's are called STAGE/reference."""
    table = {f"{STAGES[i]}/{k.contents.name.decode()}": k.contents for i, k in enumerate(REF.stage)}
    at = c.addressof(Kernel.in_dll(lib, "msa_fast_kernels"))
    while (k := Kernel.from_address(at)).name:
        table[f"{STAGES[k.stage]}/{k.name.decode()}"] = k
        at += c.sizeof(Kernel)
    return table


KERNELS = _table()
