"""What the notebooks share: the noise of the chapters' programs, and pictures, which are numbers where matplotlib is missing."""
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]  # of the project


def noise(*shape, seed):
    """About normal, mean 0 and variance 1: the numbers that noise() of book/examples/example.h gives."""
    n = 12 * int(np.prod(shape))
    state = np.empty(n, np.uint32)
    state[0] = ((seed * 2654435761 + 12345) * 1664525 + 1013904223) % 2**32
    known, times, plus = 1, 1664525, 1013904223
    while known < n:  # `known` steps at once: state -> times * state + plus
        more = state[known:2 * known]
        more[:] = state[:len(more)] * np.uint32(times) + np.uint32(plus)
        known, times, plus = 2 * known, times * times % 2**32, (times + 1) * plus % 2**32
    sums = (state >> 16).reshape(*shape, 12).sum(-1)  # twelve uniform numbers: variance 12/12
    return sums.astype(np.float32) / np.float32(65536) - np.float32(6)


def _axes(title):
    try:
        import matplotlib.pyplot as pyplot
    except ImportError:
        return None, None
    axes = pyplot.figure(figsize=(7, 3.5)).gca()
    axes.set_title(title)
    return pyplot, axes


def plot(title, x, log=False, **lines):
    """Lines over x."""
    pyplot, axes = _axes(title)
    if not axes:
        print(f"\n{title}:")
        print("  " + " ".join(f"{name:>14}" for name in ["", *lines]))
        for i, at in enumerate(x):
            print("  " + " ".join(f"{value:14.5g}" for value in [at, *(y[i] for y in lines.values())]))
        return
    for name, y in lines.items():
        axes.plot(x, y, marker=".", label=name.replace("_", " "))
    if log:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
    axes.legend()
    pyplot.show()


def picture(title, cells):
    """A map over (query, key block) of numbers from 0 to 1; what is NaN stays empty."""
    pyplot, axes = _axes(title)
    if not axes:
        print(f"\n{title}:")
        shade = lambda x: " " if np.isnan(x) else " .:o#"[int(np.ceil(4 * x))]
        print("\n".join("  " + "".join(map(shade, row)) for row in cells))
        return
    axes.imshow(cells, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.set_xlabel("block of keys")
    axes.set_ylabel("query")
    pyplot.show()
