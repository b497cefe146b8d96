"""msa.torch against MSA transcribed with masks, in float64, whose gradients are autograd's own. Prints TAP;
tests/test_torch.sh runs it. MSA names the program, whose training the example repeats."""
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
from torch._subclasses import FakeTensorMode

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path.insert(0, os.path.join(ROOT, "ref", "python"))
import msa
import msa.torch
from tap import check, check_refused, finish, skip

LIMIT = 2e-6  # of a tensor's largest element, in float32

# ---- The transcription ----------------------------------------------------------------------------------


def visible(n_q, n_kv):
    return torch.arange(n_kv)[None] <= torch.arange(n_kv - n_q, n_kv)[:, None]


def choose(qi, ki, block, topk):
    """ids [Hkv,T,k] by sorting, and the tokens that they allow, [Hkv,T,S]."""
    (n_q, groups, _), n_kv = qi.shape, len(ki)
    score = torch.einsum("tgi,si->gts", qi, ki).masked_fill(~visible(n_q, n_kv), -torch.inf)
    blocks = -(-n_kv // block)
    pooled = torch.nn.functional.pad(score, (0, blocks * block - n_kv), value=-torch.inf).unflatten(2, (blocks, block)).amax(3)
    local = (torch.arange(n_kv - n_q, n_kv) // block)[None, :, None].expand(groups, n_q, 1)
    best = pooled.scatter(2, local, torch.inf).sort(dim=2, descending=True, stable=True)
    ids = best.indices.masked_fill(best.values == -torch.inf, blocks)[:, :, :topk].sort(2).values
    allowed = torch.zeros(groups, n_q, blocks + 1, dtype=torch.bool).scatter(2, ids, True)[:, :, :-1]
    return ids.masked_fill(ids == blocks, -1), allowed.repeat_interleave(block, 2)[:, :, :n_kv] & visible(n_q, n_kv)


def transcribed(q, k, v, qi, ki, block, topk, weight):
    """o, weight * L_KL and the ids of one sequence."""
    (n_q, heads, d), (n_kv, groups, _) = q.shape, k.shape
    with torch.no_grad():
        ids, allowed = choose(qi, ki, block, topk) if topk else (None, visible(n_q, n_kv).expand(groups, -1, -1))
    of = lambda x: x.repeat_interleave(heads // groups, 1)
    logits = torch.einsum("thd,shd->hts", q, of(k)) / d**0.5
    p = logits.masked_fill(~allowed.repeat_interleave(heads // groups, 0), -torch.inf).softmax(2)
    o = torch.einsum("hts,shd->thd", p, of(v))
    t = p.detach().unflatten(0, (groups, -1)).mean(1)
    log_u = (torch.einsum("tgi,si->gts", qi, ki) / qi.shape[2] ** 0.5).masked_fill(~allowed, -torch.inf).log_softmax(2)
    kl = (torch.xlogy(t, t) - t * log_u.masked_fill(~allowed, 0)).sum() / (n_q * groups)
    return o, weight * kl, ids


def draw(n_q, n_kv, heads, groups, d, di, dtype=torch.float32):
    shapes = (n_q, heads, d), (n_kv, groups, d), (n_kv, groups, d), (n_q, groups, di), (n_kv, di)
    return [torch.randn(s).to(dtype).requires_grad_() for s in shapes]


def gradients(f, tensors, dout):
    """o, the loss, and the gradients of <o, dout> + 3 * loss."""
    o, kl = f(*tensors)[:2]
    return [o.detach(), kl.detach(), *torch.autograd.grad((o * dout).sum() + 3 * kl, tensors)]


def worst(found, right):
    return max(float((a.double() - b).abs().max() / b.abs().max()) for a, b in zip(found, right))


# ---- Operators -----------------------------------------------------------------------------------------


def both(sizes, block, topk, weight, dtype=torch.float32):
    tensors = draw(*sizes, dtype=dtype)
    dout = torch.randn_like(tensors[0])
    wide = [x.detach().double().requires_grad_() for x in tensors]
    right = gradients(lambda *x: transcribed(*x, block, topk, weight), wide, dout.double())
    return gradients(lambda *x: msa.torch.attention(*x, block, topk, weight), tensors, dout), right, tensors


def test_gradients():
    cases = {"a sequence": ((150, 150, 8, 2, 32, 16), 16, 4, 0.5), "the end of a sequence": ((40, 200, 4, 4, 16, 32), 32, 3, 1.0),
             "a block for each token": ((33, 33, 3, 1, 8, 8), 1, 5, 2.0), "warmup": ((120, 120, 8, 2, 32, 16), 16, None, 0.5),
             "warmup at the end of a sequence": ((30, 77, 6, 3, 64, 64), 16, None, 1.0)}
    for name, (sizes, block, topk, weight) in cases.items():
        found, right, x = both(sizes, block, topk, weight)
        error = worst(found, right)
        print(f"# {name}: {error:.2g}")
        check(error <= LIMIT, f"{name}: outputs and gradients, within {LIMIT} of the transcription's")
        if topk:
            ids = transcribed(*(a.detach().double() for a in x), block, topk, weight)[2]
            check(torch.equal(msa.torch.select(x[3], x[4], block, topk).long(), ids), f"{name}: ids")
    for dtype in torch.bfloat16, torch.float16, torch.float64:
        found, right, x = both((150, 150, 8, 2, 32, 16), 16, 4, 0.5, dtype)
        print(f"# {dtype}: {worst(found, right):.2g}")
        check(worst(found, right) < 0.03 and all(a.dtype == dtype for a in [found[0], *found[2:]]), f"{dtype}: that type, and near")


def test_who_learns():
    q, k, v, qi, ki = draw(50, 50, 4, 2, 16, 8)
    o, kl = msa.torch.attention(q, k, v, qi, ki, 8, 3)
    grad = lambda y: torch.autograd.grad(y, (q, k, v, qi, ki), retain_graph=True, allow_unused=True)
    check([x is not None for x in grad(o.sum())] == [True] * 3 + [False] * 2, "o trains q, k and v alone")
    check([x is not None and bool(x.any()) for x in grad(kl)] == [False] * 3 + [True] * 2, "the loss trains qi and ki alone")
    check(float(msa.torch.attention(q, k, v, qi, ki, 8, 3, 0)[1]) == 0, "without a weight there is no loss")


def test_layouts():
    tensors = draw(60, 60, 4, 2, 16, 8)
    dout = torch.randn(60, 4, 16)
    call = lambda *x, **seqs: msa.torch.attention(*x, 8, 3, 1.0, **seqs)
    cu = torch.tensor([0, 25, 60], dtype=torch.int32)
    packed = gradients(lambda *x: call(*x, cu_q=cu, cu_kv=cu), tensors, dout)
    parts = [gradients(call, [x.detach()[a:b].clone().requires_grad_() for x in tensors], dout[a:b]) for a, b in ((0, 25), (25, 60))]
    ok = torch.equal(packed[0], torch.cat([p[0] for p in parts]))
    for i in range(2, 7):
        scale = (1, 1) if i < 5 else (25 / 60, 35 / 60)  # the loss is a mean over all tokens
        ok = ok and worst([packed[i]], [torch.cat([p[i] * s for p, s in zip(parts, scale)]).double()]) <= LIMIT
    check(ok, "packed sequences are those sequences")
    strided = [x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for x in tensors]
    check(not strided[0].is_contiguous() and all(map(torch.equal, gradients(call, strided, dout), gradients(call, tensors, dout))),
          "tensors of any strides")


def test_operators():
    x = draw(37, 50, 4, 2, 16, 8)
    q, k, v, qi, ki = x
    cu = torch.tensor([0, 20, 37], dtype=torch.int32), torch.tensor([0, 25, 50], dtype=torch.int32)
    ids = msa.torch.select(qi, ki, 8, 3, *cu)
    o, lse = (y.detach() for y in torch.ops.msa.attend(q, k, v, ids, 8, *cu))
    plain = [y.detach() for y in (q, k, v)]
    for name, args in {"select": (qi, ki, 8, 3, *cu), "attend": (q, k, v, ids, 8, *cu), "kl": (q, k, qi, ki, ids, lse, 8, *cu),
                       "attend_backward": (*plain, ids, o, lse, o, 8, *cu)}.items():
        for what, some in (name, args), (f"{name} of bfloat16", [y.bfloat16() if torch.is_tensor(y) and y.dtype == torch.float32 and
                                                                 y is not lse else y for y in args]):
            try:
                found = torch.library.opcheck(getattr(torch.ops.msa, name), tuple(some))
                check(set(found.values()) == {"SUCCESS"}, f"opcheck: {what}")
            except Exception as e:
                print("#", str(e).replace("\n", "\n# "))
                check(False, f"opcheck: {what}")
    full = torch.library.opcheck(torch.ops.msa.attend, (q, k, v, None, 8)), torch.library.opcheck(torch.ops.msa.kl, (q, k, qi, ki, None, None, 8))
    check(all(set(found.values()) == {"SUCCESS"} for found in full), "opcheck: full support")
    compiled = torch.compile(msa.torch.attention, fullgraph=True, backend="aot_eager")
    dout = torch.randn_like(q)
    a, b = (gradients(lambda *x: f(*x, 8, 3, 0.5), x, dout) for f in (compiled, msa.torch.attention))
    check(all(map(torch.equal, a, b)), "torch.compile, the whole graph: the same bits")


def test_refusals():
    q, k, v, qi, ki = (x.detach() for x in draw(20, 20, 4, 2, 16, 8))
    with FakeTensorMode():
        far = torch.empty(20, 4, 16, device="cuda")
    for what, call in {
        "k: expected shape (S, Hkv, 16), found (20, 2, 8)": lambda: msa.torch.attention(q, k[:, :, :8], v, qi, ki, 8, 3),
        "k: expected a tensor on cuda:0, as those before it, found one on cpu": lambda: msa.torch.attend(far, k, v),
        "q: expected a tensor, found ndarray": lambda: msa.torch.attention(q.numpy(), k, v, qi, ki, 8, 3),
        "q: expected shape (T, Hq, dh), found (1, 20, 4, 16)": lambda: msa.torch.attend(q[None], k, v),
        "qi: expected shape (T, Hkv, di)": lambda: msa.torch.select(qi[None], ki, 8, 3),
        "block: expected an integer from 1": lambda: msa.torch.attention(q, k, v, qi, ki, 0, 3),
        "q: expected numbers within the range of float32": lambda: msa.torch.attend(q.double() * 1e300, k, v),
        "ids: expected integers": lambda: msa.torch.attend(q, k, v, torch.zeros(2, 20, 3), 8),
        "a row of block ids is not strictly ascending": lambda: msa.torch.attend(q, k, v, torch.ones(2, 20, 3, dtype=torch.int32), 8),
        "cu_q and cu_kv: expected both": lambda: msa.torch.attend(q, k, v, cu_q=torch.tensor([0, 20])),
    }.items():
        check_refused(what, call, msa.Error)


# ---- The layer -------------------------------------------------------------------------------------------


def test_training():
    """The example and the program, from the same weights and on the same windows: the same losses."""
    with tempfile.TemporaryDirectory() as d:
        with open(f"{d}/text", "wb") as f:
            f.write(bytes((i * i // 7 + i // 50) % 26 + 97 for i in range(20000)))
        sizes = ("--text text --context 96 --layers 2 --d-model 32 --heads 4 --kv-heads 2 --d-head 16 --d-index 8 --d-ff 64 "
                 "--block 16 --topk 3 --seed 7")
        train = lambda words: subprocess.run([os.environ["MSA"], "train", *f"{sizes} {words}".split()], cwd=d, capture_output=True, text=True)
        begun = train("--out start.safetensors --steps 1 --lr 0 --lr-end 0 --decay 0")
        if "jansson" in begun.stderr:
            skip("the losses of msa train", "no jansson here")
            return
        train("--out end.safetensors --steps 20 --index-warmup 10")
        example = lambda words: subprocess.run([sys.executable, os.path.join(ROOT, "ref", "python", "examples", "train.py"), *words.split()],
                                               cwd=d, capture_output=True, text=True,
                                               env=os.environ | {"PYTHONPATH": os.path.join(ROOT, "ref", "python")})
        said = example("--text text --model start.safetensors --steps 20 --index-warmup 10 --seed 7")
        print("#", said.stderr.replace("\n", "\n# "))
        ours, theirs = (np.array([line.split(",")[1:3] for line in text.split()[1:]], float)
                        for text in (said.stdout, open(f"{d}/end.csv").read()))
        same = ours.shape == theirs.shape == (20, 2)
        error = (abs(ours - theirs) / theirs).max(0) if same else (1, 1)
        print(f"# bits a byte {error[0]:.2g}, KL {error[1]:.2g}")
        check(same and error[0] < 1e-4 and theirs[-1, 0] < theirs[0, 0], "the example's losses are those of msa train, through both stages")
        check(same and error[1] < 1e-3, "and so are the selectors'")
        with open(f"{d}/short", "wb") as f:
            f.write(b"a" * 90)
        for words, says in {"--text text --model text": "text: expected a model by `msa train`, found another file\n",
                            "--text short --model start.safetensors": "short: expected a text longer than the model's context of 96 bytes, found 90\n"}.items():
            check(example(words).stderr == says, f"the example refuses: {says.strip()}")


def test_layer():
    layer = msa.torch.MSAttention(24, 4, 2, 16, 8, block=8, topk=3)
    x = torch.randn(2, 50, 24, requires_grad=True)
    y, kl = layer(x)
    check(y.shape == x.shape and torch.equal(layer(x[1:])[0][0], y[1]), "a batch is its sequences")
    kl.backward(retain_graph=True)
    trained = {name for name, p in layer.named_parameters() if p.grad is not None and p.grad.any()}
    check(trained == {"wiq", "wik", "iq_norm", "ik_norm"} and (x.grad is None or not x.grad.any()), "the selector's loss trains it alone")
    layer.zero_grad()
    y.sum().backward()
    trained = {name for name, p in layer.named_parameters() if p.grad is not None and p.grad.any()}
    check(trained == {"wq", "wk", "wv", "wo", "q_norm", "k_norm"} and bool(x.grad.any()), "and the output's trains the rest")
    check(not torch.equal(layer(x, warmup=True)[0], y) and torch.equal(layer(x, warmup=True)[0][:, :24], y[:, :24]),
          "warmup sees all tokens")


torch.manual_seed(int(os.environ.get("MSA_SEED", "1")))
test_gradients()
test_who_learns()
test_layouts()
test_operators()
test_refusals()
test_layer()
test_training()
finish()
