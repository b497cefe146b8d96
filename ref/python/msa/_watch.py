"""What the index of every sparse layer of a MiniMax-M3 chooses on a text, beside what full attention weighs most."""

import contextlib
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import _arguments as _args
from . import _program
from .capture import capture, save

_HEAD = "layer  group  queries  block recall  score recall    mass"


class Group(NamedTuple):
    """One group of one layer. Means are over its `queries` that had to choose, NaN where none had."""

    layer: int
    group: int
    queries: int
    block_recall: float  # of the blocks that full attention weighs most, the part that was chosen
    score_recall: float  # of their weight
    mass: float  # of the weight of all blocks

    def __str__(self):
        return f"{self.layer:5}  {self.group:5}  {self.queries:7}  {self.block_recall:12.4f}  {self.score_recall:12.4f}  {self.mass:6.4f}"


class Watched:
    """Groups with their recalls; print() shows them. Maps and the page to explore them, `page`, lie in `out`."""

    def __init__(self, out, groups, wrong):
        self.out, self.groups, self.wrong = out, groups, wrong  # wrong: by layer, rows of ids that its scores do not give
        self.page = out / "index.html"

    def maps(self, layer):
        """Of a layer, as arrays: "scores" and "mass" [Hkv,T,B] of every block, "ids" [Hkv,T,k], "recall" [2,Hkv,T] of blocks and
        of their weight, "fate" [Hkv,T,B]: 1 chosen, 2 among those of the largest mass, 3 both, 0 neither, -1 behind the query."""
        files = sorted(self.out.glob(f"layer{layer:02d}_*.npy"))
        return {file.stem.split("_", 1)[1]: np.load(file) for file in files}

    def __str__(self):
        wrong = [f"layer {layer}: {n} rows of ids are not those of its scores" for layer, n in self.wrong.items() if n]
        return "\n".join([_HEAD, *map(str, self.groups), *wrong, str(self.page)])


def _sparse_layers(model, layers):
    modules = model.modules() if hasattr(model, "modules") else []
    found = {attn.layer_idx: attn for attn in modules if getattr(attn, "indexer", None) is not None and hasattr(attn, "layer_idx")}
    if not found:
        _args.refuse("model", "MiniMax-M3 of Hugging Face transformers, whose sparse layers have an indexer", type(model).__name__)
    wanted = sorted(found if layers is None else set(layers))
    if not wanted or not set(wanted) <= set(found):
        _args.refuse("layers", f"some of the sparse ones, {', '.join(map(str, sorted(found)))}", ', '.join(map(str, wanted)) or "none")
    for layer in wanted:
        index = found[layer].indexer
        if index.local_blocks != 1:
            _args.refuse(f"layer {layer}: index_local_blocks", 1, index.local_blocks)
    return {layer: found[layer] for layer in wanted}


def _one_text(tokens):
    """[1,T]: two prompts of a batch must not be read as one text."""
    text = _args.plain("tokens", tokens)
    if text.dtype.kind not in "iu" or text.size == 0 or text.shape[-1:] != (text.size,):
        _args.refuse("tokens", "a sequence of integers, [T] or [1,T]", f"{text.dtype} of shape {tuple(text.shape)}")
    return text.astype(np.int64).reshape(1, -1)


def _verify(home, layer, block):
    """How many rows of the model's ids its own index scores do not give."""
    files = [word for name in ("ids", "qi", "ki") for word in (f"--{name}", f"layer{layer:02d}/{name}.npy")]
    said = _program.run(["verify", "--block", str(block), *files], home, verdict=True)
    return int(re.search(r"(\d+) of \d+ rows wrong", said)[1])


def _groups(watched, layer, topk):
    m = watched.maps(layer)
    read = (m["fate"] & 1).astype(bool) & (m["fate"] >= 0)
    chose = (m["fate"][0] >= 0).sum(-1) > topk
    mass = np.where(read, m["mass"], 0).sum(-1, dtype=np.float64)
    mean = lambda x: float(x[chose].mean(dtype=np.float64)) if chose.any() else float("nan")
    return [Group(layer, r, int(chose.sum()), mean(m["recall"][0, r]), mean(m["recall"][1, r]), mean(mass[r]))
            for r in range(len(mass))]


def watch(model, tokens, out="watched", layers=None, **inputs):
    """Lets a MiniMax-M3 of Hugging Face transformers read tokens (a sequence of their numbers) and returns, as msa.Watched,
    the recalls of every layer and group and how much of attention's weight the chosen blocks hold. The directory `out`
    receives maps as pictures and arrays, and index.html to explore them.

    layers: of these sparse layers only. inputs: what else the model is to read, such as pixel_values. The model computes as
    ever, in its own precision; q, k, qi and ki of one layer at a time pass through memory, those of all through temporary
    files (TMPDIR), 4 bytes a number. What was captured is read as numbers of float32, and every id is judged by the scores.
    """
    import torch

    attns = _sparse_layers(model, layers)
    text = _one_text(tokens)
    index = next(iter(attns.values())).indexer
    out = Path(out).absolute()
    with _program.directory() as temporary, contextlib.ExitStack() as stack:
        home = Path(temporary, type(model).__name__)
        home.mkdir()

        def keep(layer):
            return lambda call: save([{name: call[name] for name in ("q", "k", "qi", "ki", "ids")}], home / f"layer{layer:02d}")

        for layer, attn in attns.items():
            stack.enter_context(capture(attn, keep(layer)))
        with torch.no_grad():
            model.base_model(input_ids=torch.from_numpy(text).to(next(model.parameters()).device), use_cache=False, **inputs)
        wrong = {layer: _verify(home, layer, index.block_size) for layer in attns}
        _program.run(["dump", "--captured", home.name, "--layers", ",".join(map(str, attns)), "--block", str(index.block_size),
                      "--topk", str(index.topk_blocks), "--out", str(out)], temporary)
    watched = Watched(out, [], wrong)
    watched.groups = [group for layer in attns for group in _groups(watched, layer, index.topk_blocks)]
    return watched
