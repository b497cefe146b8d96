"""msa.torch on a device of msa_cuda.h, the CPU engine, beside the same on the CPU. Prints TAP; tests/test_torch_device.sh runs
it. What a GPU adds is that its tensors come here by themselves."""
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

root = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(root / "ref" / "python"))
import msa
import msa.torch
from msa import _device
from tap import check, check_refused, finish

torch.manual_seed(1)
engine, on_cpu = _device.device("msa_engine"), msa.torch._device


def on(device, f):
    msa.torch._device = (lambda x: engine) if device else on_cpu
    try:
        return f()
    finally:
        msa.torch._device = on_cpu


def draw(n_q, n_kv, heads, groups, d, di):
    shapes = (n_q, heads, d), (n_kv, groups, d), (n_kv, groups, d), (n_q, groups, di), (n_kv, di)
    return [torch.randn(s).bfloat16() for s in shapes]


def gradients(tensors, dout, *how):
    """o, the loss, and the gradients of <o, dout> + 3 * loss."""
    tensors = [x.requires_grad_() for x in tensors]
    o, kl = msa.torch.attention(*tensors, *how)
    return [o, kl, *torch.autograd.grad((o.float() * dout.float()).sum() + 3 * kl, tensors)]


def compare(name, sizes, block, topk, cu=(None, None), limit=3 * 2**-8):
    """Weights, partial outputs and results are rounded to bf16, each by 2^-8 of what may be as large as the largest."""
    tensors, dout = draw(*sizes), torch.randn(sizes[0], sizes[2], sizes[4]).bfloat16()
    found = on(True, lambda: gradients([x.clone() for x in tensors], dout, block, topk, 2.0, *cu))
    right = on(False, lambda: gradients([x.float() for x in tensors], dout, block, topk, 2.0, *cu))
    found, right = ([x.detach() for x in some] for some in (found, right))
    off = [float((a.float() - b).abs().max() / b.abs().max()) for a, b in zip(found, right)]
    types = [x.dtype for x in found] == [torch.bfloat16, torch.float32] + [torch.bfloat16] * 5
    print("# " + " ".join(f"{x:.1e}" for x in off))
    check(types and max(off) < limit, f"{name}: o, loss and gradients of bf16 within {limit:.2g}")
    if topk:
        ids = [on(device, lambda: msa.torch.select(*tensors[3:], block, topk, *cu)) for device in (True, False)]
        check(torch.equal(*ids), "... the same ids")


packed = torch.tensor([0, 40, 110], dtype=torch.int32), torch.tensor([0, 90, 190], dtype=torch.int32)
compare("one sequence", (160, 160, 4, 2, 64, 64), 32, 3)
compare("the last of its queries, 128 wide", (40, 200, 4, 1, 128, 128), 64, 2)
compare("packed sequences", (110, 190, 4, 2, 64, 64), 32, 2, packed)
compare("warmup, without a selection", (70, 90, 4, 2, 64, 64), 32, None)

q, k, v, qi, ki = draw(96, 96, 4, 2, 64, 64)
wide = torch.randn(96, 4, 65).bfloat16()[..., 1:]
ids = on(False, lambda: msa.torch.select(qi, ki, 32, 2))
o = on(True, lambda: msa.torch.attend(wide, k, v, ids, 32))
check(torch.equal(o, on(True, lambda: msa.torch.attend(wide.clone(), k, v, ids, 32))), "strided and unaligned tensors")
check(o.data_ptr() % _device.ALIGN == 0, "... leave aligned ones")
lse = _device._index_lse(qi, ki, ids, 32, engine._shape({"qi": qi, "ki": ki, "ids": ids}, 32, None, None, None))
right = msa.index_lse(qi.float(), ki.float(), ids, block=32)
check(np.allclose(lse, right, atol=1e-5), "the index's log-sum-exp over a selection")

layer = msa.torch.MSAttention(64, 4, 2, 64, 64, block=32, topk=2).bfloat16()
x = torch.randn(2, 70, 64).bfloat16()
y, kl = on(True, lambda: layer(x))
on(True, lambda: (y.float().square().mean() + kl).backward())
same, same_kl = on(False, lambda: layer(x))
y, kl, same, same_kl = (x.detach() for x in (y, kl, same, same_kl))
print(f"# {float((y - same).abs().max() / same.abs().max()):.1e} {float(kl / same_kl):.4f}")
check(float((y - same).abs().max() / same.abs().max()) < 0.02 and abs(float(kl / same_kl) - 1) < 0.02 and
      all(p.grad is not None and p.grad.abs().max() > 0 for p in layer.parameters()), "MSAttention in bf16, trained a step")

best = dict(re.findall(r"^BEST\((\w+), (\w+),", (root / "cuda" / "kernels.def").read_text(), re.M))
check(all(kernel == f"{stage}/{best[stage]}" for stage, kernel in _device.KERNELS.items()), "kernels are the best of their stages")
for what, call in {
    "q: expected torch.bfloat16, as the kernels of a device take it, found torch.float32": lambda: msa.torch.attend(q.float(), k, v),
    "does not support this shape": lambda: msa.torch.attend(q, k, v, ids, 16),
    "k: expected shape (S, Hkv, 64)": lambda: msa.torch.attend(q, k[..., :32], v),
    "ids: expected torch.int32": lambda: msa.torch.attend(q, k, v, ids.long(), 32),
    "v: expected a tensor on cpu, as those before it, found one on meta": lambda: msa.torch.attend(q, k, v.to("meta")),
}.items():
    check_refused(what, lambda: on(True, call), msa.Error)

tell = "import msa._device as d\ntry: d.device('msa_gpu')\nexcept d.msa.Error as e: print(e)\nelse: print('a GPU')"
for library, says in (("/nowhere.so", "CUDA tensors: expected /nowhere.so, which `make cuda` makes, found: "),
                      (None, "CUDA tensors: expected a |a GPU")):
    more = {"PYTHONPATH": str(root / "ref" / "python")} | ({"MSA_CUDA_LIBRARY": library} if library else {})
    said = subprocess.run([sys.executable, "-c", tell], capture_output=True, text=True, env=os.environ | more)
    print(f"# {said.stdout.strip()}{said.stderr.strip()}")
    check(any(said.stdout.startswith(word) for word in says.split("|")), f"without a GPU: {'no library' if library else 'one line'}")
finish()
