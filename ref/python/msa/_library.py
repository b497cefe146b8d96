"""libmsa.so: its structures, and its kernels."""

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


class Array(c.Structure):
    """array_line of stages.h; sizes are a letter a dimension"""

    _fields_ = [("_name", c.c_char_p), ("_sizes", c.c_char_p), ("element", c.c_int)]
    name, sizes = (property(lambda self, at=at: getattr(self, at).decode()) for at in ("_name", "_sizes"))
    is_integer = property(lambda self: self.element == 2)
    is_half = property(lambda self: self.element == 0 and self.name != "o")  # array_is_half()


class Stage(c.Structure):
    """stage_line of stages.h"""

    _fields_ = [("_name", c.c_char_p), ("_inputs", c.c_uint), ("_outputs", c.c_uint), ("_optional", c.c_uint)]
    name = property(lambda self: self._name.decode())
    inputs, outputs, optional = (property(lambda self, at=at: [a for i, a in enumerate(ARRAYS) if getattr(self, at) >> i & 1])
                                 for at in ("_inputs", "_outputs", "_optional"))


def _find():
    """The library: named, in the wheel, in PREFIX/lib above lib/python/msa, or in build/ of the project."""
    here = Path(__file__).resolve().parent
    places = [here / "libmsa.so", here.parent.parent / "libmsa.so", here.parent.parent.parent / "build" / "libmsa.so"]
    named = os.environ.get("MSA_LIBRARY")
    found = [named] if named else [str(place) for place in places if place.exists()]
    if not found:
        raise ImportError(f"libmsa.so: expected it beside {here}, found none; `make build` makes it in {places[-1].parent}")
    return found[0]


def _load():
    path = _find()
    try:
        lib = c.CDLL(path)
    except OSError as e:
        raise ImportError(f"{path}: expected a library that loads here, found: {e}") from e
    lib.msa_strerror.restype = lib.msa_name_of_letter.restype = c.c_char_p
    lib.msa_n_blocks.restype = lib.msa_first_item.restype = lib.msa_size_of_letter.restype = c.c_int64
    lib.msa_recall_workspace.restype = lib.msa_workspace.restype = c.c_size_t
    return lib


lib = _load()
PATH = Path(lib._name).resolve()  # as long as a relative name is right


def _lines(kind, table):
    """Those of a table of the library, up to one without a name."""
    at = c.addressof(kind.in_dll(lib, table))
    while getattr(x := kind.from_address(at), "_name"):
        yield x
        at += c.sizeof(kind)


ARRAYS = {a.name: a for a in _lines(Array, "msa_array_lines")}  # in the order of the sets of a stage
STAGES = {s.name: s for s in _lines(Stage, "msa_stage_lines")}


def size_name(letter):
    return lib.msa_name_of_letter(c.c_char(letter.encode())).decode()


def size(shape, letter):
    return lib.msa_size_of_letter(c.byref(shape), c.c_char(letter.encode()))


class Arrays(c.Structure):
    """msa_arrays; what only a device reads is left out"""

    _fields_ = [(name, c.c_void_p) for name in ARRAYS] + [
        ("loss", c.c_void_p), ("weight", c.c_double), ("pages", Pages),
        ("screening", c.c_void_p * 2), ("of_devices", c.c_void_p * 8)]


class Kernel(c.Structure):
    """msa_kernel"""

    _fields_ = [("stage", c.c_int), ("_name", c.c_char_p), ("backend", c.c_char_p), ("constraints", c.c_char_p),
                ("idea", c.c_char_p), ("precision", c.c_int), ("best", c.c_bool), ("own_rule", c.c_bool),
                ("workspace", c.CFUNCTYPE(c.c_size_t, c.POINTER(Shape))),
                ("run", c.CFUNCTYPE(c.c_int, c.POINTER(Shape), c.POINTER(Arrays), c.c_void_p)),
                ("run_half", c.CFUNCTYPE(c.c_int, c.POINTER(Shape), c.POINTER(Arrays), c.c_void_p))]
    name = property(lambda self: self._name.decode())


class _Ops(c.Structure):
    """msa_ops"""

    _fields_ = [("stage", c.POINTER(Kernel) * len(STAGES)), ("gemm", c.c_void_p)]


REF, FAST = _Ops.in_dll(lib, "msa_ref_ops"), _Ops.in_dll(lib, "msa_fast_ops")


def _table():
    """Name -> kernel, for every kernel of the library; the reference's are called STAGE/reference."""
    stages = list(STAGES)
    kernels = [k.contents for k in REF.stage] + list(_lines(Kernel, "msa_fast_kernels"))
    return {f"{stages[k.stage]}/{k.name}": k for k in kernels}


KERNELS = _table()
