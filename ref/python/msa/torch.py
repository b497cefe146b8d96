"""MSA in PyTorch: operators with gradients, by the kernels of libmsa.so, and an attention layer that learns to select.

    import msa.torch
    o, kl = msa.torch.attention(q, k, v, qi, ki, block=128, topk=16, kl_weight=1.0)
    (loss(o) + kl).backward()                            # q, k, v learn from the loss, qi and ki from kl alone

Tensors are token-major as everywhere in msa: q [T,Hq,dh]  k,v [S,Hkv,dh]  qi [T,Hkv,di]  ki [S,di], the queries being the
last T tokens; cu_q and cu_kv, int32 [R+1], pack several sequences. They are float32, bfloat16, float16 or float64 on a CPU:
o and the gradients have their type, what is between is float32. Anything that does not fit is an msa.Error.

On a Hopper GPU they are bfloat16, and the kernels of cuda/ run on them where they lie, in PyTorch's stream: that takes
libmsa_cuda.so of `make cuda` beside libmsa.so, or where MSA_CUDA_LIBRARY says, and the shapes that `msa kernels` says they
take. Ids are not looked at there: those that name no block of their sequence lead nowhere outside the tensors.

torch.ops.msa.select, attend, attend_backward and kl are the stages that the functions here are made of. torch.compile
leaves each as it is.
"""
from typing import Optional, Tuple

import numpy as np
import torch
from torch import Tensor, nn

import msa


def _tensors(**tensors: Optional[Tensor]) -> None:
    """Refuses what is no tensor, or on another device than the first of them; lengths may be on the CPU."""
    home = None
    for name, x in tensors.items():
        if x is None:
            continue
        if not isinstance(x, Tensor):
            raise msa.Error(f"{name}: expected a tensor, found {type(x).__name__}")
        if x.device.type not in ("cpu", "cuda", "meta"):
            raise msa.Error(f"{name}: expected a tensor on the CPU or a GPU, found one on {x.device}")
        home = home or x.device
        if x.device != home and not name.startswith("cu_"):
            raise msa.Error(f"{name}: expected a tensor on {home}, as those before it, found one on {x.device}")


def _device(x: Tensor):
    """Whose kernels take this tensor: None for libmsa.so's."""
    if x.device.type == "cpu":
        return None
    from . import _device as devices
    return devices.device("msa_gpu")


def _tensor(x: np.ndarray, like: Optional[Tensor] = None) -> Tensor:
    return torch.from_numpy(x) if like is None else torch.from_numpy(x).to(like.dtype)


# ---- Operators -------------------------------------------------------------------------------------------


@torch.library.custom_op("msa::select", mutates_args=(), device_types=("cpu", "cuda"))
def _select(qi: Tensor, ki: Tensor, block: int, topk: int, cu_q: Optional[Tensor] = None,
            cu_kv: Optional[Tensor] = None) -> Tensor:
    if device := _device(qi):
        return device.select(qi, ki, block, topk, cu_q, cu_kv)
    return _tensor(msa.index(qi, ki, block=block, topk=topk, cu_q=cu_q, cu_kv=cu_kv))


@_select.register_fake
def _(qi, ki, block, topk, cu_q=None, cu_kv=None):
    return qi.new_empty((qi.shape[1], qi.shape[0], topk), dtype=torch.int32)


@torch.library.custom_op("msa::attend", mutates_args=(), device_types=("cpu", "cuda"))
def _attend(q: Tensor, k: Tensor, v: Tensor, ids: Optional[Tensor], block: int, cu_q: Optional[Tensor] = None,
            cu_kv: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
    if device := _device(q):
        return device.attend(q, k, v, ids, block, cu_q, cu_kv)
    seqs = {"cu_q": cu_q, "cu_kv": cu_kv}
    o, lse = msa.dense(q, k, v, **seqs) if ids is None else msa.sparse(q, k, v, ids, block=block, **seqs)
    return _tensor(o, q), _tensor(lse)


@_attend.register_fake
def _(q, k, v, ids, block, cu_q=None, cu_kv=None):
    return torch.empty_like(q, memory_format=torch.contiguous_format), q.new_empty(q.shape[:2], dtype=torch.float32)


@torch.library.custom_op("msa::attend_backward", mutates_args=(), device_types=("cpu", "cuda"))
def _attend_backward(q: Tensor, k: Tensor, v: Tensor, ids: Optional[Tensor], o: Tensor, lse: Tensor, dout: Tensor, block: int,
                     cu_q: Optional[Tensor] = None, cu_kv: Optional[Tensor] = None) -> Tuple[Tensor, Tensor, Tensor]:
    if device := _device(q):
        return device.attend_backward(q, k, v, ids, o, lse, dout, block, cu_q, cu_kv)
    dq, dk, dv = msa.backward(q, k, v, dout, ids, o, lse, block=block, cu_q=cu_q, cu_kv=cu_kv)
    return _tensor(dq, q), _tensor(dk, k), _tensor(dv, v)


@_attend_backward.register_fake
def _(q, k, v, ids, o, lse, dout, block, cu_q=None, cu_kv=None):
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))


def _keep_attend(ctx, inputs, output):
    q, k, v, ids, ctx.block, cu_q, cu_kv = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(q, k, v, ids, *output, cu_q, cu_kv)


def _backward_attend(ctx, dout, _):
    q, k, v, ids, o, lse, cu_q, cu_kv = ctx.saved_tensors
    return *_attend_backward(q, k, v, ids, o, lse, dout.to(q.dtype), ctx.block, cu_q, cu_kv), None, None, None, None


_attend.register_autograd(_backward_attend, setup_context=_keep_attend)


@torch.library.custom_op("msa::kl", mutates_args=(), device_types=("cpu", "cuda"))
def _kl(q: Tensor, k: Tensor, qi: Tensor, ki: Tensor, ids: Optional[Tensor], lse: Optional[Tensor], block: int,
        cu_q: Optional[Tensor] = None, cu_kv: Optional[Tensor] = None) -> Tuple[Tensor, Tensor, Tensor]:
    if device := _device(q):
        return device.kl(q, k, qi, ki, ids, lse, block, cu_q, cu_kv)
    loss, dqi, dki = msa.kl(q, k, qi, ki, ids, lse, block=block, cu_q=cu_q, cu_kv=cu_kv)
    return torch.tensor(loss, dtype=torch.float32), _tensor(dqi), _tensor(dki)


@_kl.register_fake
def _(q, k, qi, ki, ids, lse, block, cu_q=None, cu_kv=None):
    new = lambda *sizes: qi.new_empty(sizes, dtype=torch.float32)
    return new(), new(*qi.shape), new(*ki.shape)


def _keep_kl(ctx, inputs, output):
    ctx.types = inputs[2].dtype, inputs[3].dtype
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[1:])


def _backward_kl(ctx, weight, *_):
    dqi, dki = ((weight * x).to(dtype) for x, dtype in zip(ctx.saved_tensors, ctx.types))
    return None, None, dqi, dki, None, None, None, None, None


_kl.register_autograd(_backward_kl, setup_context=_keep_kl)

# ---- What they make ----------------------------------------------------------------------------------------


def select(qi: Tensor, ki: Tensor, block: int = 128, topk: int = 16, cu_q: Optional[Tensor] = None,
           cu_kv: Optional[Tensor] = None) -> Tensor:
    """The blocks that the Index Branch chooses: int32 [Hkv,T,topk], ascending, then -1. It has no gradient."""
    _tensors(qi=qi, ki=ki, cu_q=cu_q, cu_kv=cu_kv)
    return _select(qi, ki, block, topk, cu_q, cu_kv)


def attend(q: Tensor, k: Tensor, v: Tensor, ids: Optional[Tensor] = None, block: int = 128, cu_q: Optional[Tensor] = None,
           cu_kv: Optional[Tensor] = None) -> Tensor:
    """o [T,Hq,dh]: attention to the blocks `ids`, or without them to all visible tokens; with gradients of q, k, v."""
    _tensors(q=q, k=k, v=v, ids=ids, cu_q=cu_q, cu_kv=cu_kv)
    return _attend(q, k, v, ids, block, cu_q, cu_kv)[0]


def attention(q: Tensor, k: Tensor, v: Tensor, qi: Tensor, ki: Tensor, block: int = 128, topk: Optional[int] = 16,
              kl_weight: float = 1.0, cu_q: Optional[Tensor] = None, cu_kv: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
    """o [T,Hq,dh] and kl_weight * L_KL, a float32 scalar. o has gradients of q, k, v alone, the loss of qi, ki alone:
    q and k are its teacher. topk None is the warmup: both branches see all visible tokens, nothing is selected."""
    _tensors(q=q, k=k, v=v, qi=qi, ki=ki, cu_q=cu_q, cu_kv=cu_kv)
    ids = None if topk is None else _select(qi, ki, block, topk, cu_q, cu_kv)
    o, lse = _attend(q, k, v, ids, block, cu_q, cu_kv)
    if kl_weight == 0:
        return o, torch.zeros((), device=q.device)
    return o, kl_weight * _kl(q, k, qi, ki, ids, lse, block, cu_q, cu_kv)[0]


# ---- A layer -----------------------------------------------------------------------------------------------


def _norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return nn.functional.rms_norm(x, gain.shape, 1 + gain, eps)


def _rotate(x: Tensor, rot: int, theta: float) -> Tensor:
    """The first `rot` channels of x [B,T,heads,d] turned by their token's position, channel i with i + rot/2."""
    count = lambda *range_: torch.arange(*range_, dtype=torch.float64)
    angle = torch.outer(count(x.shape[1]), theta ** -(count(0, rot, 2) / rot))
    cos, sin = (f(angle)[:, None].to(x) for f in (torch.cos, torch.sin))
    a, b, rest = x.split([rot // 2, rot // 2, x.shape[-1] - rot], -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


class MSAttention(nn.Module):
    """An attention layer of MSA: x [B,T,d_model] -> y of that shape, and kl_weight * L_KL to be added to the loss.

    Training has two stages: at first `layer(x, warmup=True)`, where both branches see all tokens and the selector learns
    where attention looks; then `layer(x)`, which attends to the blocks that it chooses. The selector reads x without a
    gradient, so that nothing but its own loss trains it, and that trains nothing else. Parameters have the names, the
    shapes and the meaning of those of a checkpoint of `msa train`: row vectors times matrices, norms scale by 1 + gain.
    `rot` and `index_rot` channels of a head are rotated: half of them, if not given.
    """

    def __init__(self, d_model: int, n_heads: int, n_kv_heads: int, d_head: int, d_index: int, block: int = 128, topk: int = 16,
                 rot: Optional[int] = None, index_rot: Optional[int] = None, theta: float = 5e6, eps: float = 1e-6,
                 kl_weight: float = 1.0):
        super().__init__()
        self.d_head, self.d_index, self.block, self.topk, self.theta, self.eps = d_head, d_index, block, topk, theta, eps
        self.rot = d_head // 2 if rot is None else rot
        self.index_rot = d_index // 2 if index_rot is None else index_rot
        self.kl_weight = kl_weight
        matrix = lambda rows, columns: nn.Parameter(torch.randn(rows, columns) / rows**0.5)
        self.wq, self.wo = matrix(d_model, n_heads * d_head), matrix(n_heads * d_head, d_model)
        self.wk, self.wv = matrix(d_model, n_kv_heads * d_head), matrix(d_model, n_kv_heads * d_head)
        self.wiq, self.wik = matrix(d_model, n_kv_heads * d_index), matrix(d_model, d_index)
        self.q_norm, self.k_norm = nn.Parameter(torch.zeros(d_head)), nn.Parameter(torch.zeros(d_head))
        self.iq_norm, self.ik_norm = nn.Parameter(torch.zeros(d_index)), nn.Parameter(torch.zeros(d_index))

    def _heads(self, x: Tensor, weight: Tensor, gain: Tensor, rot: int) -> Tensor:
        """[B*T,heads,d]: projected, normed, rotated."""
        x = _norm((x @ weight).unflatten(-1, (-1, len(gain))), gain, self.eps)
        return _rotate(x, rot, self.theta).flatten(0, 1)

    def forward(self, x: Tensor, warmup: bool = False) -> Tuple[Tensor, Tensor]:
        batch, length, _ = x.shape
        cu = torch.arange(batch + 1, dtype=torch.int32) * length
        q, k = self._heads(x, self.wq, self.q_norm, self.rot), self._heads(x, self.wk, self.k_norm, self.rot)
        v = (x @ self.wv).view(k.shape)
        read = x.detach()
        qi = self._heads(read, self.wiq, self.iq_norm, self.index_rot)
        ki = self._heads(read, self.wik, self.ik_norm, self.index_rot)[:, 0]
        o, kl = attention(q, k, v, qi, ki, self.block, None if warmup else self.topk, self.kl_weight, cu, cu)
        return o.view(batch, length, -1) @ self.wo, kl
