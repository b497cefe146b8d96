"""Arguments of the calls: what C would read past the end of, if it had another shape, is looked at here."""

import ctypes as c
import math
import numbers
import operator

import numpy as np


class Error(ValueError):
    """An argument that is not what it should be, or what msa_strerror() says of a call that failed."""

    __module__ = "msa"


def refuse(what, expected, found):
    raise Error(f"{what}: expected {expected}, found {found}")


def integer(what, x, low=1):
    """An integer, of Python or NumPy, that C's int holds."""
    try:
        value = low - 1 if isinstance(x, (bool, np.bool_)) else operator.index(x)
    except TypeError:
        value = low - 1
    if not low <= value < 2**31:
        refuse(what, f"an integer from {low} to 2^31 - 1", repr(x))
    return value


def number(what, x):
    if isinstance(x, bool) or not isinstance(x, numbers.Real) or not math.isfinite(x):
        refuse(what, "a finite number", repr(x))
    return c.c_double(x)


def is_half(x):
    """Whether x says that it is bf16: a tensor of that type, or its bits as uint16."""
    return str(getattr(x, "dtype", None)) in ("torch.bfloat16", "uint16")


def _bits_of(tensor):
    import torch
    return tensor.view(torch.int16).cpu().numpy().view(np.uint16)


def plain(what, x, bits=False):
    """x as an array of whatever type it has; a tensor shares its memory, one of bf16 only as bits."""
    if np.ma.is_masked(x):
        refuse(what, "an array without a mask, which nothing here looks at", "masked elements")
    try:
        if hasattr(x, "detach"):
            x = x.detach()
            if bits and is_half(x):
                return _bits_of(x)
            x = (x.float() if x.is_floating_point() and x.element_size() < 4 else x).cpu().numpy()  # array() looks at float64
        return np.asarray(x)
    except (ValueError, TypeError, RuntimeError) as e:
        raise Error(f"{what}: expected an array, found {type(x).__name__}: {e}") from e


def fits(what, x, *sizes):
    """A size is a number, or the letter of a dimension that may be any."""
    if x.ndim != len(sizes) or any(isinstance(n, int) and n != m for n, m in zip(sizes, x.shape)):
        refuse(what, f"shape ({', '.join(map(str, sizes))})", tuple(x.shape))
    for m in x.shape:
        integer(f"{what}: a dimension", m)
    return x


def array(what, x, *sizes):
    """A float32 array of this shape, C-ordered: x itself where it is one."""
    x = plain(what, x)
    if x.dtype.kind != "f":
        refuse(what, "floats", x.dtype)
    fits(what, x, *sizes)
    with np.errstate(over="ignore"):
        y = np.require(x, np.float32, "CA")
    if x.dtype.itemsize > 4 and (np.isinf(y) & ~np.isinf(x)).any():
        refuse(what, "numbers within the range of float32", f"{np.abs(x[np.isinf(y) & ~np.isinf(x)]).max()}")
    return y


def integers(what, x, *sizes):
    """The same for int32."""
    x = plain(what, x)
    if x.dtype.kind not in "iu":
        refuse(what, "integers", x.dtype)
    fits(what, x, *sizes)
    if x.size and not -2**31 <= int(x.min()) <= int(x.max()) < 2**31:
        refuse(what, "integers that 32 bits hold", f"{x.min()} to {x.max()}")
    return np.require(x, np.int32, "CA")


def bits(what, x, *sizes):
    """bf16 as its 16 bits, C-ordered: where they lie if they are so."""
    x = plain(what, x, bits=True)
    if x.dtype != np.uint16:
        refuse(what, "bf16, as k is", x.dtype)
    return np.require(fits(what, x, *sizes), np.uint16, "CA")
