"""msa.capture: TAP on stdout. A layer in NumPy with the names and the order of calls of MiniMax-M3's in Hugging
Face transformers; and that layer itself, in bfloat16, where transformers is installed."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "ref" / "python"))

import numpy as np

from msa import capture as c

n = failed = 0


def check(ok, name):
    global n, failed
    n += 1
    failed += not ok
    print("ok" if ok else "not ok", n, "-", name)


# ---- As much of PyTorch as a layer needs ------------------------------------------------------------------


class Tensor(np.ndarray):
    detach = cpu = lambda self: self
    numpy = lambda self: np.asarray(self)
    float = lambda self: self.astype(np.float32)
    is_floating_point = lambda self: np.issubdtype(self.dtype, np.floating)


class Module:
    def __init__(self, forward=None):
        self.before, self.after = [], []
        if forward:
            self.forward = forward

    def __call__(self, *inputs):
        for hook in self.before:
            hook(self, inputs)
        output = self.forward(*inputs)
        for hook in self.after:
            hook(self, inputs, output)
        return output

    def _register(self, hooks, hook):
        hooks.append(hook)
        return type("Handle", (), {"remove": lambda _: hooks.remove(hook)})()

    def register_forward_pre_hook(self, hook):
        return self._register(self.before, hook)

    def register_forward_hook(self, hook):
        return self._register(self.after, hook)


def apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim=1):
    return 2 * q, 3 * k


H, G, D, DI = 4, 2, 3, 5


class Attention(Module):
    """x [1,T,1] -> [1,T,1]: every head holds multiples of x."""

    def __init__(self, sparse):
        super().__init__()
        self.v_proj = Module(lambda x: np.repeat(7 * x, G * D, 2))
        self.o_proj = Module(lambda x: x[..., :1])
        self.indexer = Module(self.choose) if sparse else None

    def choose(self, x):
        apply_rotary_pos_emb(np.repeat(x[:, None], DI, 3).repeat(G, 1), 10 * np.repeat(x[:, None], DI, 3), None, None)
        return np.zeros((1, G, x.shape[1], self.width), np.int64).view(Tensor) + x[:, None].astype(np.int64)

    def forward(self, x):
        q, k = apply_rotary_pos_emb(np.repeat(x[:, None], D, 3).repeat(H, 1), np.repeat(x[:, None], D, 3).repeat(G, 1), None,
                                    None)
        self.v_proj(x)
        if self.indexer is not None:
            self.indexer(x)
        return self.o_proj(np.repeat(q[:, :1, :, :1], H * D, 3)[:, 0])


def tokens(*values):
    return np.array(values, np.float32)[None, :, None].view(Tensor)


def constant(x, *shape):
    return np.broadcast_to(np.reshape(x, (-1,) + (1,) * (len(shape) - 1)), shape).astype(np.float32)


def the_layer():
    layer, other = Attention(True), Attention(True)
    layer.width, other.width = 2, 2
    before = apply_rotary_pos_emb
    with c.capture(layer) as calls:
        layer(tokens(1, 2))
        other(tokens(100, 200))
        layer.width = 3
        layer(tokens(4))
    check(len(calls) == 2 and apply_rotary_pos_emb is before, "two calls, not those of another layer")
    layer(tokens(8))
    check(len(calls) == 2 and not layer.before and not layer.after and not layer.o_proj.before, "nothing is left behind")
    x = np.array([1, 2, 4], np.float32)
    whole = c.join(calls)
    wanted = dict(q=constant(2 * x, 3, H, D), k=constant(3 * x, 3, G, D), v=constant(7 * x, 3, G, D),
                  o=constant(2 * x, 3, H, D), qi=constant(2 * x, 3, G, DI), ki=constant(30 * x, 3, DI))
    for name, value in wanted.items():
        check(whole[name].dtype == np.float32 and whole[name].shape == value.shape and (whole[name] == value).all(), name)
    ids = np.array([[1, 1, -1], [2, 2, -1], [4, 4, 4]])
    check(whole["ids"].dtype == np.int64 and (whole["ids"] == ids).all() and whole["ids"].shape == (G, 3, 3), "ids")
    with tempfile.TemporaryDirectory() as directory:
        c.save(calls, directory + "/new")
        files = {p.stem: np.load(p) for p in Path(directory, "new").iterdir()}
        check(files.keys() == whole.keys() and all((files[a] == whole[a]).all() for a in files), "files")


def the_dense_layer():
    layer = Attention(False)
    with c.capture(layer) as calls:
        layer(tokens(1, 2))
    check(sorted(calls[0]) == ["k", "o", "q", "v"], "a dense layer has no index")


def a_batch():
    layer = Attention(True)
    layer.width = 2
    try:
        with c.capture(layer):
            layer(np.ones((2, 3, 1), np.float32).view(Tensor))
        check(False, "a batch of two is refused")
    except ValueError as e:
        check("batch of one, found 2" in str(e), "a batch of two is refused")
    check(apply_rotary_pos_emb(1, 1, None, None) == (2, 3), "and the model is as it was")


# ---- The model itself -------------------------------------------------------------------------------------


def the_model():
    try:
        import torch
        from transformers.models.minimax_m3_vl import modeling_minimax_m3_vl as m3
        from transformers.models.minimax_m3_vl.configuration_minimax_m3_vl import MiniMaxM3VLTextConfig
    except ImportError:
        check(True, "a layer of MiniMax-M3 # SKIP no transformers with minimax_m3_vl here")
        return
    torch.manual_seed(0)
    config = MiniMaxM3VLTextConfig(
        hidden_size=128, intermediate_size=64, dense_intermediate_size=64, shared_intermediate_size=64,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=64, vocab_size=512, num_local_experts=4,
        num_experts_per_tok=2, index_n_heads=2, index_head_dim=64, index_block_size=16, index_topk_blocks=4, rotary_dim=32,
        layer_types=["full_attention", "minimax_m3_sparse"], bos_token_id=1, eos_token_id=2, pad_token_id=0)
    config._attn_implementation = "eager"
    model = m3.MiniMaxM3VLForCausalLM(config)
    for name, p in model.named_parameters():
        torch.nn.init.normal_(p, std=0.3 if "norm" in name else 0.06)
    model = model.to(torch.bfloat16).eval()
    with torch.no_grad(), c.capture(model.model.layers[1].self_attn) as calls, tempfile.TemporaryDirectory() as d:
        model.generate(torch.randint(3, 512, (1, 200)), max_new_tokens=4, do_sample=False)
        c.save(calls, d)
        files = [word for name in "q k v qi ki ids o".split() for word in (f"--{name}", f"{d}/{name}.npy")]
        said = subprocess.run([os.environ["MSA"], "verify", "--block", "16", *files], capture_output=True, text=True)
    print("#", said.stdout.replace("\n", "\n# "))
    check(len(calls) == 4, "a prompt and the tokens after it")
    check(said.returncode == 0 and "0 of 406 rows wrong" in said.stdout, "its ids and outputs in bfloat16 are right")
    check("order   falling score; local block first" in said.stdout, "ids best first")
    check("precision bf16-logits" in said.stdout and "eager" in said.stdout, "and its rounding is named")


the_layer()
the_dense_layer()
a_batch()
the_model()
print(f"1..{n}")
sys.exit(failed > 0)
