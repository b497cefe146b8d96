"""`msa layer` against Hugging Face transformers, which wrote the checkpoint or reads ours. Prints TAP;
tests/test_transformers.sh runs it."""
import os
import subprocess
import sys
import tempfile
import warnings

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
import numpy as np
import torch
import transformers
from transformers.models.minimax_m3_vl import configuration_minimax_m3_vl as config, modeling_minimax_m3_vl as m3

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "data", "checkpoint"))
import random_m3
from tap import check, finish

warnings.filterwarnings("ignore")
transformers.utils.logging.disable_progress_bar()
torch.manual_seed(1)
MSA, FULL = os.environ["MSA"], "FULL" in os.environ
TOLERANCE = 2e-6  # of the largest value of y
home = tempfile.TemporaryDirectory()
runs = 0


def text_of(model):
    return getattr(model.model, "language_model", model.model)


def theirs(model, layer, x, past=None, residual=False):
    """y, ids (or None) and the cache of a layer of their model, for hidden states [T, d_model] behind those of `past`."""
    text, block = text_of(model), text_of(model).layers[layer]
    length = past.get_seq_length(layer) if past else 0
    pos = torch.arange(length, length + len(x))[None]
    mask = torch.zeros(len(x), length + len(x)).masked_fill(torch.arange(length + len(x))[None] > pos[0][:, None], -torch.inf)
    found = {}
    hook = block.self_attn.indexer and block.self_attn.indexer.register_forward_hook(lambda m, i, o: found.update(ids=o[0].numpy()))
    with torch.no_grad():
        h = torch.from_numpy(x)[None]
        y, _ = block.self_attn(hidden_states=block.input_layernorm(h) if residual else h, position_embeddings=text.rotary_emb(h, pos),
                               attention_mask=None if hook else mask[None, None], position_ids=pos, cache=past)
    if hook:
        hook.remove()
    return y[0].numpy(), found.get("ids")


def ours(dir, layer, x, *more):
    global runs
    runs += 1
    hidden, out = f"{home.name}/x{runs}.npy", f"{home.name}/out{runs}"
    np.save(hidden, x)
    subprocess.run([MSA, "layer", "--checkpoint", dir, "--layer", str(layer), "--hidden", hidden, "--out", out, *more], check=True, capture_output=True)
    return out


def load(out, name):
    return np.load(f"{out}/{name}.npy")


def wrong_rows(out, ids, block, ties=True):
    """Rows that are not the same set of blocks, but for `ties`, blocks of one score; theirs are in no order, padded with -1."""
    own, qi, ki = load(out, "ids"), load(out, "qi").astype(np.float64), load(out, "ki").astype(np.float64)
    width, shift, bad = own.shape[-1], len(ki) - len(qi), 0
    for r in range(own.shape[0]):
        for i in range(own.shape[1]):
            a, b = set(own[r, i]) - {-1}, set(ids[r, i]) - {-1}
            if a == b:
                continue
            score = lambda c: (ki[c * block : min((c + 1) * block, shift + i + 1)] @ qi[i, r]).max()
            tied = ties and len(a) == len(b) and np.allclose(sorted(map(score, a - b)), sorted(map(score, b - a)), rtol=1e-6)
            bad += not tied
    return bad


def compare(name, model, dir, lengths, agrees=True, more=()):
    cfg, worst, bad = text_of(model).config, 0, 0
    for layer in range(cfg.num_hidden_layers):
        for length in lengths:
            x = np.random.default_rng(length).standard_normal((length, cfg.hidden_size)).astype(np.float32)
            y, ids = theirs(model, layer, x)
            out = ours(dir, layer, x, *more)
            worst = max(worst, abs(load(out, "y") - y).max() / abs(y).max())
            bad += 0 if ids is None else wrong_rows(out, ids, cfg.index_block_size, agrees)
    check((worst <= TOLERANCE and bad == 0) == agrees, f"{name}: y within {worst:.1e}, {bad} rows of ids differ", f"tolerance {TOLERANCE}")


def text_config(**other):
    sizes = dict(vocab_size=32, hidden_size=64, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=2, head_dim=32, index_n_heads=2,
                 index_head_dim=32, index_block_size=16, index_topk_blocks=4, layer_types=["full_attention", "minimax_m3_sparse"],
                 mlp_layer_types=["dense", "dense"], intermediate_size=16, dense_intermediate_size=16, shared_intermediate_size=16,
                 num_local_experts=2, num_experts_per_tok=1, pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.2,
                 rope_parameters=dict(rope_type="default", rope_theta=5e6, partial_rotary_factor=0.5))
    return config.MiniMaxM3VLTextConfig(**{**sizes, **other})


def text_model(**other):
    return m3.MiniMaxM3VLForCausalLM(text_config(**other))


def vision_model(**other):
    vision = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28)
    return m3.MiniMaxM3SparseForConditionalGeneration(
        config.MiniMaxM3VLConfig(text_config=text_config(**other).to_dict(), vision_config=vision, projector_hidden_size=64))


def saved(model, name, dtype=torch.float32, **how):
    """Their model with random gains, written in that type; what is compared then is what that type holds, in float32."""
    for key, p in model.named_parameters():
        if "norm" in key:
            torch.nn.init.normal_(p, std=0.3)
    dir = f"{home.name}/{name}"
    for p in model.parameters():  # not model.to(), which would round the table of angles too
        p.data = p.data.to(dtype)
    model.save_pretrained(dir, **how)
    for p in model.parameters():
        p.data = p.data.float()
    return model.eval(), dir


LENGTHS = [1, 17, 400] + [4096] * FULL
for name, make, dtype, how in (
    ("text", lambda: text_model(), torch.float32, {}),
    ("text, di below dh, all channels turn", lambda: text_model(index_head_dim=16, rope_parameters=None), torch.float32, {}),
    ("text, bf16, shards, G 16", lambda: text_model(num_attention_heads=16, num_key_value_heads=1, index_n_heads=1), torch.bfloat16, dict(max_shard_size="60KB")),
    ("text, float16, G 2, di above dh", lambda: text_model(num_attention_heads=4, head_dim=16, index_head_dim=64), torch.float16, {}),
    ("vision-language", lambda: vision_model(), torch.float32, dict(max_shard_size="100KB")),
    ("vision-language, bf16", lambda: vision_model(index_head_dim=16), torch.bfloat16, {}),
):
    compare(f"they wrote it: {name}", *saved(make(), name.replace(" ", "").replace(",", "-"), dtype, **how), LENGTHS)

if FULL:  # why angles are rounded as theirs are
    torch.manual_seed(1)
    compare("angles that are exact are not the model's", *saved(text_model(index_head_dim=16, rope_parameters=dict(rope_type="default", rope_theta=1e4, partial_rotary_factor=0.5)), "angles"), [4096], False, ["--exact-angles"])

# Ours, read by their loader.
for names, kind in (("text", m3.MiniMaxM3VLForCausalLM), ("vision", m3.MiniMaxM3SparseForConditionalGeneration)):
    a = random_m3.parse([f"{home.name}/ours-{names}", "--names", names, "--dtype", "F32", "--shards", "2"])
    random_m3.write(a)
    model = kind.from_pretrained(a.out).float().eval()
    held = dict(random_m3.values(a))
    got, index = text_of(model).layers[1].self_attn, "indexer." if names == "text" else "index_"
    named = lambda end: next(x for key, x in held.items() if key.endswith("1.self_attn." + end))
    pairs = ((got.q_proj, "q_proj.weight"), (got.indexer.k_norm, index + "k_norm.weight"))
    same = all(np.array_equal(module.weight.detach().numpy(), named(end)) for module, end in pairs)
    check(same, f"we wrote it, they read it: {names}")
    compare(f"... and compute the same: {names}", model, a.out, LENGTHS[:3])

# MXFP8, whose values their model is given.
a = random_m3.parse([f"{home.name}/mxfp8", "--dtype", "F8_E4M3", "--shards", "3"])
random_m3.write(a)
model = text_model(index_head_dim=16, rope_parameters=dict(rope_type="default", rope_theta=5e6, partial_rotary_factor=0.5)).eval()
state = model.state_dict()
state.update({name: torch.from_numpy(x.copy()) for name, x in random_m3.values(a)})
model.load_state_dict(state)
compare("MXFP8", model, a.out, LENGTHS[:3])

# Chunks and steps of a cache; the input norm and the residual stream.
model, dir = saved(text_model(), "cache")
x = np.random.default_rng(5).standard_normal((200, 64)).astype(np.float32)
for layer in range(2):
    past, out, worst, bad = transformers.DynamicCache(config=model.config), None, 0, 0
    for begin, end in ((0, 130), (130, 131), (131, 132), (132, 200)):
        y, ids = theirs(model, layer, x[begin:end], past)
        out = ours(dir, layer, x[begin:end], *(["--past", out] if out else []))
        worst = max(worst, abs(load(out, "y") - y).max() / abs(y).max())
        bad += 0 if ids is None else wrong_rows(out, ids, 16)
    check(worst <= TOLERANCE and bad == 0, f"layer {layer} with a cache, in chunks and steps: y within {worst:.1e}, {bad} rows of ids differ")
    y, _ = theirs(model, layer, x, residual=True)
    out = ours(dir, layer, x, "--residual")
    worst = max(abs(load(out, "y") - y).max() / abs(y).max(), abs(load(out, "residual") - x - y).max() / abs(y).max())
    check(worst <= TOLERANCE, f"layer {layer} of a residual stream: within {worst:.1e}")

finish()
