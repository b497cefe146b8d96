"""An attention layer of a checkpoint of MiniMax-M3."""

from pathlib import Path

import numpy as np

from . import _arguments as _args
from . import _program


def layer(checkpoint, n, hidden, *, residual=False, positions=None, past=None, ids=None, kernel=(), rot=None, index_rot=None,
          exact_angles=False):
    """Layer n of the checkpoint in a directory, as `msa layer` runs it: {"q": ..., "k", "v", "o", "lse", "y"}, of a sparse
    layer also "qi", "ki", "ids" and "index_lse"; float32, token-major, ids int32.

    hidden [T,d_model], or [1,T,d_model]: what the input norm left, or with residual=True the residual stream, to which that
    norm is applied; "residual" is then its sum with y. past: what an earlier call returned, whose tokens these follow.
    positions [T] rotate in place of 0, 1, ...; ids [Hkv,T,k] attend in place of the index's choice. kernel: one
    "STAGE/NAME" or several. rot and index_rot are the widths that rotate, where config.json is not to say it, and
    exact_angles=True does not round angles to float32, as models do. Tensors pass through temporary files (TMPDIR).
    """
    more = ["--residual"] * bool(residual) + ["--exact-angles"] * bool(exact_angles)
    for name in [kernel] if isinstance(kernel, str) else kernel:
        more += ["--kernel", name]
    for option, width in ("--rot", rot), ("--index-rot", index_rot):
        more += [] if width is None else [option, str(_args.integer(option, width, 0))]
    x = _args.plain("hidden", hidden)
    if x.ndim == 3 and len(x) == 1:
        x = x[0]
    with _program.directory() as home:
        np.save(Path(home, "hidden"), _args.array("hidden", x, "T", "d_model"))
        if positions is not None:
            more += ["--positions", "positions.npy"]
            np.save(Path(home, "positions"), _args.integers("positions", positions, len(x)))
        if ids is not None:
            more += ["--ids", "ids.npy"]
            np.save(Path(home, "ids"), _args.integers("ids", ids, "Hkv", "T", "k"))
        if past is not None:
            more += ["--past", "past"]
            Path(home, "past").mkdir()
            for name in {"k", "v", "ki"} & set(past):
                np.save(Path(home, "past", name), _args.plain(f"past: {name}", past[name]))
        _program.run(["layer", "--checkpoint", str(Path(checkpoint).absolute()), "--layer", str(_args.integer("n", n, 0)),
                      "--hidden", "hidden.npy", "--out", "out", *more], home)
        return {file.stem: np.load(file) for file in sorted(Path(home, "out").glob("*.npy"))}
