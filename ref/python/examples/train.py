"""Trains a byte-level model in PyTorch, with MSAttention, on a text of yours, as `msa train` does: the same network,
windows, optimizer and schedule, so that both print the same losses.

    build/msa train --text kjv.txt --out start.safetensors --steps 1 --lr 0 --lr-end 0 --decay 0    # as it is drawn
    python3 ref/python/examples/train.py --text kjv.txt --model start.safetensors --steps 100 --index-warmup 50

or, to go on with a model that has learned, --model data/kjv-msa.safetensors --index-warmup 0. Needs PyTorch and msa.
"""
import argparse
import json
import math

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, rms_norm, silu

from msa.torch import MSAttention


class Norm(nn.Module):
    def __init__(self, gain, eps):
        super().__init__()
        self.gain, self.eps = nn.Parameter(gain), eps

    def forward(self, x):
        return rms_norm(x, self.gain.shape, 1 + self.gain, self.eps)


class Block(nn.Module):
    """x += Attention(norm(x)); x += SwiGLU(norm(x))"""

    def __init__(self, c, weights):
        super().__init__()
        n = {name: int(c[name]) for name in ("d_model", "n_heads", "n_kv_heads", "d_head", "d_index", "block", "topk")}
        self.attention = MSAttention(**n, theta=float(c["theta"]), eps=float(c["eps"]))
        self.attention.load_state_dict({name: weights[name] for name in self.attention.state_dict()})
        self.attn_norm, self.mlp_norm = (Norm(weights[name], float(c["eps"])) for name in ("attn_norm", "mlp_norm"))
        self.w_gate, self.w_up, self.w_down = (nn.Parameter(weights[name]) for name in ("w_gate", "w_up", "w_down"))

    def forward(self, x, warmup):
        y, kl = self.attention(self.attn_norm(x), warmup)
        x = x + y
        z = self.mlp_norm(x)
        return x + (silu(z @ self.w_gate) * (z @ self.w_up)) @ self.w_down, kl


class Model(nn.Module):
    def __init__(self, c, weights):
        super().__init__()
        self.embed, self.head = nn.Parameter(weights["embed"]), nn.Parameter(weights["head"])
        of = lambda l: {name.split(".", 2)[2]: w for name, w in weights.items() if name.startswith(f"layers.{l}.")}
        self.blocks = nn.ModuleList(Block(c, of(l)) for l in range(int(c["n_layers"])))
        self.norm = Norm(weights["norm"], float(c["eps"]))

    def forward(self, tokens, targets, warmup):
        """The loss of the text, in nats, and that of the selectors, summed over the layers."""
        x, losses = self.embed[tokens], 0
        for block in self.blocks:
            x, kl = block(x, warmup)
            losses = losses + kl
        return cross_entropy((self.norm(x) @ self.head).flatten(0, 1), targets.flatten()), losses


def read(path):
    """The metadata and the tensors of a safetensors file."""
    with open(path, "rb") as f:
        try:
            header = json.loads(f.read(min(int.from_bytes(f.read(8), "little"), 2**24)))
        except ValueError:
            raise SystemExit(f"{path}: expected a model by `msa train`, found another file")
        data = f.read()
    c = header.pop("__metadata__", {})
    odd = {"selector", "reverse_kl", "attached", "sink", "value_head"} & set(c)
    if c.get("format") != "msa-model-1" or odd:
        raise SystemExit(f"{path}: expected a model of plain MSA by `msa train`, found {', '.join(sorted(odd)) or 'another'}")
    take = lambda t: np.frombuffer(data[slice(*t["data_offsets"])], "<f4").reshape(t["shape"]).copy()
    return c, {name: torch.from_numpy(take(t)) for name, t in header.items()}


def uniform(seed, n):
    """Number n of stream `seed`, in [0,1): ref/random.h."""
    m = 2**64 - 1
    z = (seed * 0xD1342543DE82EF95 + (n + 1) * 0x9E3779B97F4A7C15) & m
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & m
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & m
    return ((z ^ (z >> 31)) >> 11) * 2.0**-53


def windows(text, step, a, context):
    """Windows [batch,context+1] of the first 95 % of the text: which ones, the seed and the step say."""
    places = len(text) - len(text) // 20 - context
    at = [int(uniform(a.seed ^ 0x7465787473, step * a.batch + b) * places) for b in range(a.batch)]
    return torch.stack([text[i:i + context + 1] for i in at]).long()


def rate(step, steps, rise=100, high=3e-3, low=1e-4):
    if step < rise:
        return high * (step + 1) / rise
    return low + (high - low) * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(steps - rise, 1)))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--text", required=True)
    p.add_argument("--model", required=True, help="to begin with: a file of `msa train`")
    p.add_argument("--steps", type=int, default=3000)
    p.add_argument("--batch", type=int, default=2)
    p.add_argument("--index-warmup", type=int, default=1000, help="first steps with full attention in both branches")
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    c, weights = read(a.model)
    text = torch.from_numpy(np.fromfile(a.text, np.uint8))
    if len(text) - len(text) // 20 <= int(c["context"]):
        raise SystemExit(f"{a.text}: expected a text longer than the model's context of {c['context']} bytes, found {len(text)}")
    model = Model(c, weights)
    decayed = [[w for w in model.parameters() if (w.ndim > 1) == matrix] for matrix in (True, False)]
    optimizer = torch.optim.AdamW([{"params": decayed[0], "weight_decay": 0.1}, {"params": decayed[1], "weight_decay": 0}],
                                  betas=(0.9, 0.95))
    print("step,train_bits_per_byte,kl_nats,learning_rate")
    for step in range(a.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, a.steps)
        chosen = windows(text, step, a, int(c["context"]))
        loss, kl = model(chosen[:, :-1], chosen[:, 1:], warmup=step < a.index_warmup)
        optimizer.zero_grad()
        (loss + kl).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1)
        optimizer.step()
        print(f"{step + 1},{loss.item() / math.log(2):.6g},{kl.item() / len(model.blocks):.6g},{rate(step, a.steps):.5g}", flush=True)


if __name__ == "__main__":
    main()
