"""MiniMax-M3 of Hugging Face transformers on the kernels of libmsa.so.

    import msa.transformers                                        # registers "msa_c"
    model = AutoModelForCausalLM.from_pretrained(..., attn_implementation="msa_c")   # or model.set_attn_implementation("msa_c")
    model.generate(tokens, max_new_tokens=8)

The model's own indexer chooses, the kernels attend: to its blocks in a sparse layer, to all tokens in a dense one, with
gradients of queries, keys and values. A batch holds prompts of one length, or is padded at the end; padding before a
prompt moves the model's blocks, and is refused as every mask is that is not causal. Attention that is not causal, as
that over images, is left to PyTorch.
"""
from typing import Any, Optional, Tuple

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask

import msa
from msa.torch import attend


def mask(*, mask_function=causal_mask_function, attention_mask: Optional[Tensor] = None, **rest) -> Optional[Tensor]:
    """None for the causal mask, where nothing but a row's end is padding: no token before it sees that. Else the mask."""
    if mask_function is causal_mask_function and (
            attention_mask is None or not bool((~attention_mask[:, :-1] & attention_mask[:, 1:]).any())):
        return None
    return sdpa_mask(mask_function=mask_function, attention_mask=attention_mask, **rest)


def _ascending(ids: Tensor) -> Tensor:
    """[Hkv,B*T,k] of the indexer's [B,Hkv,T,k], best first: ascending, then -1."""
    last = torch.iinfo(torch.int32).max
    ids = ids.transpose(0, 1).flatten(1, 2)
    ids = ids.masked_fill(ids < 0, last).sort(-1).values
    return ids.masked_fill(ids == last, -1).int()


def attention(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Optional[Tensor],
              scaling: Optional[float] = None, dropout: float = 0.0, block_indices: Optional[Tensor] = None,
              position_ids: Optional[Tensor] = None, is_causal: Optional[bool] = None, **rest) -> Tuple[Tensor, None]:
    """What AttentionInterface asks for: query [B,Hq,T,dh], key and value [B,Hkv,S,dh] -> [B,T,Hq,dh]."""
    if not (module.is_causal if is_causal is None else is_causal):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout,
                                      is_causal=False, **rest)
    if attention_mask is not None:
        raise msa.Error("attention_mask: expected a causal one, padded at the end of a row if at all, found another")
    if dropout:
        raise msa.Error(f"dropout: expected 0, found {dropout}")
    batch, heads, n, d = query.shape
    seen = key.shape[2]
    if position_ids is not None:  # a static cache has room for more tokens than there are
        seen = min(seen, int(position_ids.max()) + 1)
    if scaling is not None and scaling != d**-0.5:
        query = query * (scaling * d**0.5)
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key[:, :, :seen], value[:, :, :seen]))
    cu_q, cu_kv = (torch.arange(batch + 1, dtype=torch.int32) * length for length in (n, seen))
    if block_indices is None:
        o = attend(q, k, v, cu_q=cu_q, cu_kv=cu_kv)
    else:
        o = attend(q, k, v, _ascending(block_indices), module.indexer.block_size, cu_q, cu_kv)
    return o.view(batch, n, heads, d), None


AttentionInterface.register("msa_c", attention)
AttentionMaskInterface.register("msa_c", mask)
