"""msa.transformers beside the model's own attention, on a small MiniMax-M3 of random weights. Prints TAP;
tests/test_python_m3.sh runs it."""
import os
import sys

import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "ref", "python"))
import msa
import msa.transformers
from transformers.models.minimax_m3_vl import modeling_minimax_m3_vl as m3
from transformers.models.minimax_m3_vl.configuration_minimax_m3_vl import MiniMaxM3VLTextConfig
from tap import check, finish

torch.manual_seed(int(os.environ.get("MSA_SEED", "1")))
config = MiniMaxM3VLTextConfig(
    hidden_size=64, intermediate_size=64, dense_intermediate_size=64, shared_intermediate_size=64, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=2, head_dim=32, vocab_size=512, num_local_experts=4, num_experts_per_tok=2,
    index_n_heads=2, index_head_dim=32, index_block_size=16, index_topk_blocks=4, rotary_dim=16,
    layer_types=["full_attention", "minimax_m3_sparse", "minimax_m3_sparse"], bos_token_id=1, eos_token_id=2, pad_token_id=0)
model = m3.MiniMaxM3VLForCausalLM._from_config(config, attn_implementation="eager").eval()
for name, p in model.named_parameters():
    torch.nn.init.normal_(p, std=0.3 if "norm" in name else 0.06)
tokens = torch.randint(3, 512, (3, 150))


def by(attention, f):
    model.set_attn_implementation(attention)
    return f()


def both(f):
    return by("eager", f), by("msa_c", f)


def near(pair, limit=5e-6):
    error = float(((pair[1] - pair[0]).abs().max() / pair[0].abs().max()).detach())
    print(f"# {error:.2g}")
    return error <= limit


def gradients():
    model.zero_grad()
    model(tokens, labels=tokens).loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


with torch.no_grad():
    check(near(both(lambda: model(tokens).logits)), "logits of a batch of three")
    generate = lambda **named: model.generate(tokens, max_new_tokens=12, do_sample=False, **named)
    check(torch.equal(*both(generate)), "generate: the same tokens")
    check(torch.equal(*both(lambda: generate(cache_implementation="static"))), "... with a static cache")
    padded = torch.ones_like(tokens)
    padded[1, 120:] = 0
    check(near(both(lambda: model(tokens, attention_mask=padded).logits[1, :120])), "a row that is padded at its end")
    padded[1] = 1
    padded[2, :20] = 0
    try:
        by("msa_c", lambda: model(tokens, attention_mask=padded))
        check(False, "padding before a prompt is refused")
    except msa.Error as e:
        print(f"# {e}")
        check("attention_mask" in str(e), "padding before a prompt is refused")
check(near(both(gradients)), "gradients of all weights")
layer = model.model.layers[1].self_attn
q, k, v = torch.randn(1, 4, 9, 32), torch.randn(1, 2, 9, 32), torch.randn(1, 2, 9, 32)
found = msa.transformers.attention(layer, q, k, v, None, scaling=0.3, is_causal=False)[0]
wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=0.3, enable_gqa=True).transpose(1, 2)
check(near((wanted, found)), "attention that is not causal is PyTorch's")
found = msa.transformers.attention(model.model.layers[0].self_attn, q, k, v, None, scaling=0.3)[0]
wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=0.3, enable_gqa=True, is_causal=True).transpose(1, 2)
check(near((wanted, found)), "a scale of one's own")
with torch.no_grad():
    x, turn = torch.randn(1, 150, 64).bfloat16(), model.model.rotary_emb(torch.randn(1, 150, 64).bfloat16(), torch.arange(150)[None])
    layer = layer.bfloat16()
    of = lambda attention: by(attention, lambda: layer(x, turn, None)[0].float())
    eager, theirs, ours = of("eager"), of("sdpa"), of("msa_c")
    size = lambda x: float(x.abs().max() / eager.abs().max())
    print(f"# from eager: sdpa {size(theirs - eager):.2g}, ours {size(ours - eager):.2g}")
    check(size(ours - eager) < 0.02, "a layer in bfloat16")
finish()
