"""msa.capture and msa.watch: TAP on stdout. A layer in NumPy with the names and the order of calls of MiniMax-M3's in Hugging
Face transformers; and that layer itself, in bfloat16, where transformers is installed."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "ref" / "python"))

import numpy as np

import msa
from msa import capture as c
from tap import check, check_refused, finish, skip

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

    def __call__(self, *inputs, **named):
        for hook, with_named in self.before:
            hook(self, inputs, *[named] * with_named)
        output = self.forward(*inputs)
        for hook in self.after:
            hook(self, inputs, output)
        return output

    def _register(self, hooks, hook):
        hooks.append(hook)
        return type("Handle", (), {"remove": lambda _: hooks.remove(hook)})()

    def register_forward_pre_hook(self, hook, with_kwargs=False):
        return self._register(self.before, (hook, with_kwargs))

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


def two_sequences():
    """Calls are joined if each begins where the one before ended."""
    layer = Attention(False)
    at = lambda first: np.array([[first, first + 1]]).view(Tensor)
    with c.capture(layer) as calls:
        for first in 0, 2, 0, 4:
            layer(tokens(1, 2), position_ids=at(first))
    check([int(call["position"]) for call in calls] == [0, 2, 0, 4], "calls say where they began")
    check(len(c.join(calls[:2])["q"]) == 4 and "position" not in c.join(calls[:2]), "chunks are joined")
    for name, some, says in (("two prompts", calls[:3], "calls[2]: expected it to begin at token 4"),
                             ("a prompt without its beginning", calls[1:2], "calls[0]: expected it to begin at token 0"),
                             ("a gap", [calls[0], calls[3]], "found token 4"), ("nothing", [], "found none")):
        with tempfile.TemporaryDirectory() as directory:
            try:
                c.save(some, directory + "/new")
                check(False, f"{name}: refused")
            except msa.Error as e:
                check(says in str(e) and not os.listdir(directory), f"{name}: refused, and nothing written")


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


def made(sees=False):
    """A model of random weights in bfloat16: of text, or the text part of one that sees images too."""
    import torch
    from transformers.models.minimax_m3_vl import configuration_minimax_m3_vl as config, modeling_minimax_m3_vl as m3
    torch.manual_seed(0)
    text = config.MiniMaxM3VLTextConfig(
        hidden_size=128, intermediate_size=64, dense_intermediate_size=64, shared_intermediate_size=64,
        num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=64, vocab_size=512, num_local_experts=4,
        num_experts_per_tok=2, index_n_heads=2, index_head_dim=64, index_block_size=16, index_topk_blocks=4, rotary_dim=32,
        layer_types=["full_attention", "minimax_m3_sparse", "minimax_m3_sparse"], bos_token_id=1, eos_token_id=2, pad_token_id=0)
    if sees:
        vision = dict(hidden_size=48, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=56)
        both = config.MiniMaxM3VLConfig(text_config=text.to_dict(), vision_config=vision, projector_hidden_size=64, image_token_index=510,
                                        video_token_index=511)
        model = m3.MiniMaxM3SparseForConditionalGeneration._from_config(both, attn_implementation="eager")
    else:
        model = m3.MiniMaxM3VLForCausalLM._from_config(text, attn_implementation="eager")
    for name, p in model.named_parameters():
        torch.nn.init.normal_(p, std=0.3 if "norm" in name else 0.06)
    return model.to(torch.bfloat16).eval()


def the_model():
    import torch
    model = made()
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


SAME_IDS = (("ref", "reference", "fast", "screened"), ("fast", "amx_full", "fast", "amx_screened"), ("simt", "fused", "simt", "screened"))


def chosen(d, out, backend, kernel, words):
    """The ids [G,T,k] of an index kernel and what it said; None where this build has no such back end."""
    said = subprocess.run([os.environ["MSA"], "forward", "--backend", backend, "--kernel", f"index/{kernel}", "--topk", "4", *words,
                           "--out", f"{d}/{out}"], capture_output=True, text=True)
    return np.load(f"{d}/{out}/ids.npy") if said.returncode == 0 else None, said.stdout + said.stderr


def stepped(d, t, keys):
    """The ids of the last two queries as a step of generation over pages of 32 tokens."""
    pages = -(-len(t["k"]) // 32)
    def paged(x):
        whole = np.zeros((32 * pages,) + x.shape[1:], np.float32)
        whole[:len(x)] = x
        return whole.reshape((pages, 32) + x.shape[1:])
    inputs = {"q": t["q"][None, -2:], "qi": t["qi"][None, -2:], "ki-pages": paged(t["ki"]), "k-pages": paged(t["k"]).swapaxes(1, 2),
              "v-pages": paged(t["v"]).swapaxes(1, 2), "page-table": np.arange(pages, dtype=np.int32)[None], "lens": np.array([len(t["k"])], np.int32)}
    for name, x in inputs.items():
        np.save(f"{d}/{name}.npy", np.ascontiguousarray(x))
    words = [word for name in inputs for word in (f"--{name}", f"{d}/{name}.npy")]
    said = subprocess.run([os.environ["MSA"], "decode", "--backend", "simt", "--topk", "4", "--index-keys", keys, *words, "--out", f"{d}/{keys}"],
                          capture_output=True, text=True)
    return np.load(f"{d}/{keys}/ids.npy") if said.returncode == 0 else None, said.stdout + said.stderr


def the_screening():
    """What a model's own index keys and queries choose is the same from 8 bits, in blocks of its size and larger ones."""
    import torch
    model = made()
    has = subprocess.run([os.environ["MSA"], "kernels"], capture_output=True, text=True).stdout
    with torch.no_grad(), c.capture(model.model.layers[2].self_attn) as calls, tempfile.TemporaryDirectory() as d:
        model.model(input_ids=torch.randint(3, 512, (1, 700)), use_cache=False)
        c.save(calls, d)
        files = [word for name in "q k v qi ki".split() for word in (f"--{name}", f"{d}/{name}.npy")]
        for backend, full, other, screened in SAME_IDS:
            for block in (32,) if backend == "simt" else (16, 32):
                name = f"captured keys, blocks of {block}: index/{screened} ({other}) chooses what index/{full} ({backend}) does"
                if not all(f"index/{kernel}\t" in has for kernel in (full, screened)):
                    skip(name, "this build has no such kernel")
                    continue
                words = [*files, "--block", str(block)]
                (a, said), (b, says) = chosen(d, "a", backend, full, words), chosen(d, "b", other, screened, words)
                check(a is not None and b is not None and a.shape == (2, 700, 4) and a.tobytes() == b.tobytes(), name, said + says)
        name = "captured keys: a step of generation chooses the same with 8-bit keys"
        if "decode/swapped" not in has:
            skip(name, "this build has no engine")
            return
        t = c.join(calls)
        (a, said), (b, says) = stepped(d, t, "f32"), stepped(d, t, "int8")
        check(a is not None and b is not None and a.shape == (2, 1, 2, 4) and a.tobytes() == b.tobytes(), name, said + says)


def agree(watched, calls, layer):
    """The recalls of a layer against those of msa.recall, from what was captured apart."""
    t = c.join(calls)
    ids = np.sort(np.where(t["ids"] < 0, 2**30, t["ids"]), -1)
    ids = np.where(ids == 2**30, -1, ids)
    mass, chose = msa.block_mass(t["q"], t["k"], block=16), np.arange(len(t["q"])) // 16 >= 4
    ok = (watched.maps(layer)["ids"] == ids).all() and watched.wrong[layer] == 0
    for g in [g for g in watched.groups if g.layer == layer]:
        one = msa.recall(t["q"][:, 2 * g.group:2 * g.group + 2], t["k"][:, [g.group]], ids[[g.group]], block=16)
        kept = np.take_along_axis(mass[g.group], ids[g.group].clip(0), -1)[chose].sum(-1).mean()
        ok = ok and g.queries == one[0] and np.allclose(g[3:], (*one[1:], kept), atol=1e-6)
    return bool(ok)


def the_explorer():
    import torch
    text = torch.randint(3, 500, (200,))
    for sees in False, True:
        model, name = made(sees), "text and images" if sees else "text"
        layers = model.model.language_model.layers if sees else model.model.layers
        with tempfile.TemporaryDirectory() as d:
            with c.capture(layers[2].self_attn) as calls:
                if sees:  # 4 x 4 patches, merged to 4 tokens
                    text[50:54] = 510
                image = dict(pixel_values=torch.randn(16, 3 * 2 * 14 * 14).bfloat16(), image_grid_thw=torch.tensor([[1, 4, 4]])) if sees else {}
                watched = msa.watch(model, text, out=d + "/out", **image)
            check([g[:2] for g in watched.groups] == [(1, 0), (1, 1), (2, 0), (2, 1)], f"msa.watch, {name}: groups of all sparse layers")
            check(len(calls) == 1 and agree(watched, calls, 2), "... with the recalls and the mass of what was captured apart")
            page = watched.page.read_text()
            check(all(f'"layer":{l},"group":{r}' in page for l in (1, 2) for r in (0, 1)) and str(watched).count("\n") == 5,
                  "... one page holds them all")
            if sees:
                continue
            again = msa.watch(model, text.tolist(), out=d + "/out2", layers=[1])
            check(again.groups == watched.groups[:2], "... a layer alone")
            short = msa.watch(model, text[:60], out=d + "/short", layers=[1])
            check(short.groups[0].queries == 0 and np.isnan(short.groups[0].mass), "... a text where nothing has to be chosen")
            flip = layers[1].self_attn.indexer.register_forward_hook(lambda _, inputs, ids: torch.where(ids == 1, 2, ids))
            other = msa.watch(model, text, out=d + "/other")
            flip.remove()
            check(other.wrong[1] > 0 and other.wrong[2] == 0 and "layer 1: " in str(other), "... ids that the scores do not give are told")
    for wrong, says in ((lambda: msa.watch(torch.nn.Linear(2, 2), text), "found Linear"),
                        (lambda: msa.watch(model, torch.stack([text, text])), "tokens: expected a sequence of integers, [T] or [1,T]"),
                        (lambda: msa.watch(model, text[:0]), "tokens: expected a sequence"),
                        (lambda: msa.watch(model, text.float()), "tokens: expected a sequence"),
                        (lambda: msa.watch(model, 5), "tokens: expected a sequence"),
                        (lambda: msa.watch(model, text, layers=[]), "some of the sparse ones, 1, 2, found none"),
                        (lambda: msa.watch(model, text, layers=[0]), "some of the sparse ones, 1, 2, found 0")):
        check_refused(says, wrong, msa.Error)


the_layer()
two_sequences()
the_dense_layer()
a_batch()
try:
    import torch
    import transformers.models.minimax_m3_vl
except ImportError:
    skip("MiniMax-M3 itself", "no transformers with minimax_m3_vl here")
else:
    the_model()
    the_screening()
    the_explorer()
finish()
