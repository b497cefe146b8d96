"""A random checkpoint in the format of MiniMax-M3: config.json, shards of safetensors, their index. Needs NumPy.

    python3 data/checkpoint/random_m3.py OUT                          two small layers, the second sparse
    python3 data/checkpoint/random_m3.py OUT --m3 --layers 1 --tokens 8192    a layer of true size, and x.npy for it

Weights are drawn and written a piece at a time; memory holds one piece. Only attention layers and their input norms
are written: transformers loads them and draws the rest itself."""
import argparse
import json
import os

import numpy as np

PIECE = 1 << 22  # values that are drawn at a time
MX = 32  # columns that share a scale of MXFP8


def bf16(x):
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def from_e4m3(code):
    exponent, fraction = code >> 3 & 15, (code & 7).astype(np.float32)
    size = np.where(exponent == 0, fraction * 2.0**-9, (8 + fraction) * np.exp2(exponent.astype(np.float32) - 10))
    return np.where(code & 128, -size, size).astype(np.float32)


def geometry(a):
    """The tensors of layer after layer: name below the layer, [out, in] or [width], whether a norm."""
    q, kv = a.heads * a.d_head, a.kv_heads * a.d_head
    index = {"text": "indexer.", "memory": "indexer.", "vision": "index_"}[a.names]
    for layer in range(a.layers):
        yield layer, "input_layernorm", (a.d_model,)
        yield from ((layer, f"self_attn.{n}_proj", s) for n, s in (("q", (q, a.d_model)), ("k", (kv, a.d_model)), ("v", (kv, a.d_model)), ("o", (a.d_model, q))))
        yield from ((layer, f"self_attn.{n}_norm", (a.d_head,)) for n in "qk")
        if layer in a.sparse:
            yield layer, f"self_attn.{index}q_proj", (a.kv_heads * a.d_index, a.d_model)
            yield layer, f"self_attn.{index}k_proj", (a.d_index, a.d_model)
            yield from ((layer, f"self_attn.{index}{n}_norm", (a.d_index,)) for n in "qk")


def prefix(a):
    return {"text": "model.", "memory": "model.language_model.", "vision": "language_model.model."}[a.names]


def tensors(a):
    """(name, dtype, shape, draw): draw() yields bytes, a piece at a time, the same each time."""
    for number, (layer, part, shape) in enumerate(geometry(a)):
        name = f"{prefix(a)}layers.{layer}.{part}.weight"
        dtype = "BF16" if a.dtype == "F8_E4M3" and len(shape) == 1 else a.dtype
        yield name, dtype, shape, lambda n=number, s=shape, d=dtype: pieces(a, n, s, d)
        if dtype == "F8_E4M3":
            yield name + "_scale_inv", "U8", (shape[0], shape[1] // MX), lambda n=number, s=shape: scales(a, n, s)


def pieces(a, number, shape, dtype):
    rng = np.random.default_rng([a.seed, number])
    left, spread = int(np.prod(shape)), 0.2 if len(shape) == 1 else a.gain / np.sqrt(shape[1])
    while left:
        n = min(left, PIECE)
        if dtype == "F8_E4M3":
            code = rng.integers(0, 127, n, dtype=np.uint8)
            yield (code | rng.integers(0, 2, n, dtype=np.uint8) << 7).tobytes()
        else:
            x = rng.standard_normal(n, dtype=np.float32) * np.float32(spread)
            yield {"F32": lambda: x, "F16": lambda: x.astype(np.float16), "BF16": lambda: bf16(x)}[dtype]().tobytes()
        left -= n


def scales(a, number, shape):
    """Powers of two that bring E4M3, of a root mean square near 60, to the spread of the other types."""
    middle = 127 + round(np.log2(a.gain / np.sqrt(shape[1]) / 60))
    rng = np.random.default_rng([a.seed, number, 1])
    yield rng.integers(middle - 1, middle + 2, shape[0] * shape[1] // MX, dtype=np.uint8).tobytes()


def values(a):
    """Name and float32 values of every weight, as whoever reads the checkpoint should find them."""
    held = {name: (dtype, shape, b"".join(draw())) for name, dtype, shape, draw in tensors(a)}
    for name, (dtype, shape, data) in held.items():
        if dtype == "U8":
            continue
        if dtype == "F8_E4M3":
            power = np.frombuffer(held[name + "_scale_inv"][2], np.uint8).astype(np.float32) - 127
            x = from_e4m3(np.frombuffer(data, np.uint8)) * np.repeat(np.exp2(power), MX).astype(np.float32)
        elif dtype == "BF16":
            x = from_bf16(np.frombuffer(data, np.uint16))
        else:
            x = np.frombuffer(data, {"F32": np.float32, "F16": np.float16}[dtype]).astype(np.float32)
        yield name, x.reshape(shape)


def config(a):
    text = dict(model_type="minimax_m3_vl_text", hidden_size=a.d_model, num_hidden_layers=a.layers, num_attention_heads=a.heads,
                num_key_value_heads=a.kv_heads, head_dim=a.d_head, rms_norm_eps=1e-6, index_n_heads=a.kv_heads, index_head_dim=a.d_index,
                index_block_size=a.block, index_topk_blocks=a.topk, index_local_blocks=1,
                layer_types=["minimax_m3_sparse" if l in a.sparse else "full_attention" for l in range(a.layers)],
                rope_parameters=dict(rope_type="default", rope_theta=5e6, partial_rotary_factor=a.rotary / a.d_head),
                # what transformers draws itself, small
                mlp_layer_types=["dense"] * a.layers, vocab_size=32, intermediate_size=16, dense_intermediate_size=16,
                shared_intermediate_size=16, num_local_experts=2, num_experts_per_tok=1, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    return text if a.names == "text" else dict(model_type="minimax_m3_vl", text_config=text)


def write(a):
    os.makedirs(a.out, exist_ok=True)
    every = list(tensors(a))
    place = {}
    for shard in range(max(a.shards, 1)):
        mine, at, header = every[shard :: max(a.shards, 1)], 0, {"__metadata__": {"format": "pt"}}
        for name, dtype, shape, _ in mine:
            n = int(np.prod(shape)) * {"F32": 4, "F16": 2, "BF16": 2}.get(dtype, 1)
            header[name] = dict(dtype=dtype, shape=shape, data_offsets=[at, at + n])
            at += n
        file = f"model-{shard + 1:05}-of-{a.shards:05}.safetensors" if a.shards else "model.safetensors"
        text = json.dumps(header).encode()
        with open(os.path.join(a.out, file), "wb") as f:
            f.write(len(text).to_bytes(8, "little") + text)
            for name, _, _, draw in mine:
                f.writelines(draw())
                place[name] = file
    if a.shards:
        with open(os.path.join(a.out, "model.safetensors.index.json"), "w") as f:
            json.dump(dict(metadata={}, weight_map=place), f)
    with open(os.path.join(a.out, "config.json"), "w") as f:
        json.dump(config(a), f, indent=1)
    if a.tokens:
        x = np.lib.format.open_memmap(os.path.join(a.out, "x.npy"), "w+", np.float32, (a.tokens, a.d_model))
        rng = np.random.default_rng([a.seed, 1 << 20])
        for i in range(0, a.tokens, 512):
            x[i : i + 512] = rng.standard_normal(x[i : i + 512].shape, dtype=np.float32)


def parse(words=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out", help="directory")
    for name, default, what in (("layers", 2, "layers"), ("d-model", 64, "width of the residual stream"), ("heads", 8, "query heads"), ("kv-heads", 2, "KV heads"),
                                ("d-head", 32, "width of a head"), ("d-index", 16, "width of an index head"), ("block", 16, "tokens in a block"),
                                ("topk", 4, "blocks that a query reads"), ("rotary", 16, "rotated channels"), ("shards", 0, "files with an index; 0: one without"),
                                ("tokens", 0, "hidden states to draw, x.npy"), ("seed", 1, "of the random numbers")):
        p.add_argument("--" + name, type=int, default=default, help=f"{what} (default {default})")
    p.add_argument("--sparse", default=None, help="list of sparse layers, such as 1,2 (default: the last)")
    p.add_argument("--names", choices=("text", "vision", "memory"), default="text", help="whose names (default text)")
    p.add_argument("--dtype", choices=("F32", "F16", "BF16", "F8_E4M3"), default="BF16", help="of the projections (default BF16)")
    p.add_argument("--gain", type=float, default=1.5, help="how much a projection enlarges (default 1.5)")
    p.add_argument("--m3", action="store_true", help="MiniMax-M3's sizes instead")
    a = p.parse_args(words)
    if a.m3:
        a.d_model, a.heads, a.kv_heads, a.d_head, a.d_index, a.block, a.topk, a.rotary = 6144, 64, 4, 128, 128, 128, 16, 64
    if a.dtype == "F8_E4M3" and (a.d_model % MX or a.heads * a.d_head % MX):
        p.error(f"--dtype F8_E4M3: expected --d-model, and --heads times --d-head, in blocks of {MX}, found {a.d_model} and {a.heads * a.d_head}")
    a.sparse = [a.layers - 1] if a.sparse is None else [int(l) for l in a.sparse.split(",") if l]
    return a


if __name__ == "__main__":
    write(parse())
