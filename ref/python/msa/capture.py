"""What one attention layer of MiniMax-M3 computes while Hugging Face transformers runs it, for `msa` to read.

    from msa.capture import capture, save        # needs PyTorch
    attn = model.model.layers[5].self_attn       # vision-language: model.model.language_model.layers[5].self_attn
    with capture(attn) as calls:
        model.generate(tokens, max_new_tokens=8) # a batch of one
    calls[0]["q"]                                # [T,Hq,dh] of the prompt; calls[1], calls[2], ... of a token each
    save(calls, "captured")                      # of all calls together: captured/q.npy, k, v, o and qi, ki, ids

Every call of the layer is kept, in the order of calls, with the tokens that were new in it: a prompt read in chunks
and a generation with a cache are joined into one sequence; calls that do not follow on each other, such as those of two
prompts, are refused there (calls[i]["position"] says where each began). Queries and keys are those after norm and rotation, as the
model's own arithmetic has rounded them, so that nothing of that is recomputed. Floats become float32, which holds
every bfloat16; ids stay integers. A dense layer (attn.indexer is None) has no qi, ki and ids.
"""

import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Union

import numpy as np

from ._arguments import Error


def _array(x):
    x = x.detach().cpu()
    if x.shape[0] != 1:
        raise Error(f"the model's input: expected a batch of one, found {x.shape[0]}")
    return np.array((x.float() if x.is_floating_point() else x).numpy()[0])


class capture:
    """The list of the calls of `attn`, a dictionary of arrays each; with `keep` that is given each of them instead."""

    def __init__(self, attn: Any, keep: Optional[Callable[[Dict[str, np.ndarray]], None]] = None):
        self.attn, self.now = attn, None
        self.calls: List[Dict[str, np.ndarray]] = []
        self.keep = keep or self.calls.append
        self.home = sys.modules[type(attn).__module__]

    def _rotated(self, q, k, *args, **kwargs):
        """Stands in for the model's rotation: of q and k first, then of the index's."""
        q, k = self.rotate(q, k, *args, **kwargs)
        if self.now is not None:
            names = ("qi", "ki") if "q" in self.now else ("q", "k")
            self.now.update(zip(names, (_array(x).swapaxes(0, 1) for x in (q, k))))  # [T,heads,d]
        return q, k

    def _begin(self, _, inputs, named):
        position = named.get("position_ids")
        self.now = {} if position is None else {"position": np.array(int(position.flatten()[0]))}

    def _keep(self, name, x):
        self.now[name] = _array(x)

    def _end(self, *_):
        call, self.now = self.now, None
        width = call["q"].shape[-1]
        for name in ("v", "o"):
            call[name] = call[name].reshape(len(call[name]), -1, width)
        if "ki" in call:
            call["ki"] = call["ki"][:, 0]
        self.keep(call)

    def __enter__(self) -> List[Dict[str, np.ndarray]]:
        attn = self.attn
        self.rotate = self.home.apply_rotary_pos_emb  # now, not before: another capture may have its own there
        self.home.apply_rotary_pos_emb = self._rotated
        self.hooks = [attn.register_forward_pre_hook(self._begin, with_kwargs=True), attn.register_forward_hook(self._end),
                      attn.v_proj.register_forward_hook(lambda _, inputs, output: self._keep("v", output)),
                      attn.o_proj.register_forward_pre_hook(lambda _, inputs: self._keep("o", inputs[0]))]
        if attn.indexer is not None:
            self.hooks.append(attn.indexer.register_forward_hook(lambda _, inputs, ids: self._keep("ids", ids)))
        return self.calls

    def __exit__(self, *error: Any) -> None:
        self.home.apply_rotary_pos_emb = self.rotate
        for hook in self.hooks:
            hook.remove()


def join(calls: List[Dict[str, np.ndarray]]) -> Dict[str, np.ndarray]:
    """All calls as one: tokens one after the other, rows of ids as wide as the widest, then -1."""
    if not calls:
        raise Error("calls: expected one at least, found none: did the model run inside of capture?")
    tokens = 0
    for i, call in enumerate(calls):
        if call.get("position", tokens) != tokens:
            raise Error(f"calls[{i}]: expected it to begin at token {tokens}, behind those before it, found token "
                        f"{call['position']}: of another prompt, or of one whose beginning was not captured")
        tokens += len(call["q"])
    whole = {name: np.concatenate([call[name] for call in calls]) for name in calls[0] if name not in ("ids", "position")}
    if "ids" in calls[0]:
        k = max(call["ids"].shape[2] for call in calls)
        whole["ids"] = np.concatenate([np.pad(call["ids"], ((0, 0), (0, 0), (0, k - call["ids"].shape[2])),
                                              constant_values=-1) for call in calls], axis=1)
    return whole


def save(calls: List[Dict[str, np.ndarray]], directory: Union[str, Path]) -> None:
    """Writes the joined calls as directory/NAME.npy."""
    whole = join(calls)
    Path(directory).mkdir(parents=True, exist_ok=True)
    for name, x in whole.items():
        np.save(Path(directory) / f"{name}.npy", np.ascontiguousarray(x))
