"""msa.layer against its formula in NumPy, in double, and against the files of `msa layer`. Prints TAP;
tests/test_python_layer.sh runs it."""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

root = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(root / "ref" / "python"), str(root / "data" / "checkpoint")]
import msa
import random_m3
from tap import check, check_refused, finish

home = tempfile.TemporaryDirectory()
a = random_m3.parse([f"{home.name}/m3", "--shards", "2", "--rotary", "16"])
random_m3.write(a)
held = {name.split(".", 2)[2]: x.astype(float) for name, x in random_m3.values(a)}
T, EPS = 100, 1e-6
x = np.random.default_rng(3).standard_normal((T, a.d_model)).astype(np.float32)


def norm(x, gain):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * (1 + gain)


def turn(x):
    """The first channels of [T,heads,d], by the angles that the model rounds to float32."""
    half = a.rotary // 2
    rate = (5e6 ** -(np.arange(half, dtype=np.float32) * np.float32(2) / np.float32(a.rotary))).astype(np.float32)
    angle = (np.arange(len(x), dtype=np.float32)[:, None] * rate).astype(float)[:, None]
    p, q = x[..., :half], x[..., half:2 * half]
    return np.concatenate([p * np.cos(angle) - q * np.sin(angle), q * np.cos(angle) + p * np.sin(angle), x[..., 2 * half:]], -1)


def formula(layer, x):
    """y, and the logits of the blocks' scores, which say where two are too near to each other to rank."""
    w = lambda name: held[f"{layer}.self_attn.{name}.weight"]
    heads = lambda name, d: (x.astype(float) @ w(name + "_proj").T).reshape(T, -1, d)
    q, k = (turn(norm(heads(c, a.d_head), w(c + "_norm"))) for c in "qk")
    v, see = heads("v", a.d_head), np.tri(T, dtype=bool)[None].repeat(a.kv_heads, 0)
    if layer in a.sparse:
        qi, ki = (turn(norm(heads(f"indexer.{c}", a.d_index), w(f"indexer.{c}_norm"))) for c in "qk")
        score = np.where(see, np.einsum("trd,sd->rts", qi, ki[:, 0]), -np.inf)
        score = np.maximum.reduceat(score, range(0, T, a.block), -1)
        local = np.arange(T) // a.block
        score[:, np.arange(T), local] = np.inf
        best = np.argsort(-score, -1, kind="stable")[..., :a.topk]
        chosen = np.zeros(score.shape, bool)
        np.put_along_axis(chosen, best, True, -1)
        see = see & chosen.repeat(a.block, -1)[..., :T]
    g = a.heads // a.kv_heads
    logits = np.einsum("thd,shd->hts", q, k.repeat(g, 1)) / a.d_head**0.5
    e = np.where(see.repeat(g, 0), np.exp(logits - logits.max(-1, keepdims=True)), 0)
    o = np.einsum("hts,shd->thd", e / e.sum(-1, keepdims=True), v.repeat(g, 1))
    return o.reshape(T, -1) @ w("o_proj").T


def near(found, right):
    error = abs(found - right).max() / abs(right).max()
    print(f"# {error:.2g}")
    return error <= 2e-6


for layer in 0, 1:
    found = msa.layer(a.out, layer, x)
    check(near(found["y"], formula(layer, x)), f"layer {layer}: y is that of the formula")
    names = {"q", "k", "v", "o", "lse", "y"} | ({"qi", "ki", "ids", "index_lse"} if layer in a.sparse else set())
    check(found.keys() == names and all(x.dtype == (np.int32 if name == "ids" else np.float32) for name, x in found.items()),
          "... and what it returns has names and types")
    np.save(f"{home.name}/x.npy", x)
    subprocess.run([os.environ["MSA"], "layer", "--checkpoint", a.out, "--layer", str(layer), "--hidden", f"{home.name}/x.npy", "--out",
                    f"{home.name}/out{layer}"], check=True, capture_output=True)
    check(all((np.load(f"{home.name}/out{layer}/{name}.npy") == found[name]).all() for name in names), "... that of `msa layer`")

same = lambda p, q: all((p[name] == q[name]).all() for name in p)
check(same(msa.layer(a.out, 1, x.astype(np.float64)[None]), found), "hidden as float64, in a batch of one")
check(same(msa.layer(Path(a.out), 1, x, positions=np.arange(T)), found), "positions that are the default's")
moved = msa.layer(a.out, 1, x, positions=np.arange(T)[::-1])
check(abs(moved["y"] - found["y"]).max() > 1e-2 and (moved["v"] == found["v"]).all(), "... and others")
def falling(row):
    return np.concatenate([row[row >= 0][::-1], row[row < 0]])


backwards = np.apply_along_axis(falling, -1, found["ids"])
check(same(msa.layer(a.out, 1, x, ids=backwards.astype(np.int64)), found), "ids that are given")
residual = msa.layer(a.out, 1, x, residual=True)
check(near(residual["y"], formula(1, norm(x.astype(float), held["1.input_layernorm.weight"]))) and
      (residual["residual"] == x + residual["y"]).all(), "the residual stream: normed, and added to")
past, parts = None, []
for begin, end in (0, 60), (60, 61), (61, T):
    past = msa.layer(a.out, 1, x[begin:end], past=past)
    parts.append(past)
check(near(np.concatenate([p["y"] for p in parts]), found["y"]) and (np.concatenate([p["ids"] for p in parts], 1) == found["ids"]).all(),
      "in chunks, each behind what the one before returned")
check(near(msa.layer(a.out, 1, x, kernel=["sparse/blocks", "index/tiles"])["y"], found["y"]), "kernels by name")
still = [msa.layer(a.out, 1, x, rot=0, positions=p)["q"] for p in (None, np.arange(T)[::-1])]
check((still[0] == still[1]).all() and (msa.layer(a.out, 1, x, index_rot=0)["qi"] != found["qi"]).any(), "widths that rotate")
check(same(msa.layer(a.out, 1, x, exact_angles=True), found) is False, "exact angles")
for what, call in {
    "m3: layer 2: expected one from 0 to 1": lambda: msa.layer(a.out, 2, x),
    "config.json: cannot read": lambda: msa.layer(home.name, 1, x),
    "n: expected an integer": lambda: msa.layer(a.out, "1", x),
    "hidden: expected floats": lambda: msa.layer(a.out, 1, x.astype(int)),
    "hidden: expected shape (T, d_model)": lambda: msa.layer(a.out, 1, x[0]),
    "--hidden hidden.npy: expected [T,64], the hidden_size": lambda: msa.layer(a.out, 1, x[:, :9]),
    "hidden.npy: ": lambda: msa.layer(a.out, 1, x * np.nan),
    "positions: expected shape (100)": lambda: msa.layer(a.out, 1, x, positions=[1, 2]),
    "--ids: expected a sparse layer": lambda: msa.layer(a.out, 0, x, ids=found["ids"]),
    "--past past/": lambda: msa.layer(a.out, 1, x, past=msa.layer(a.out, 0, x)),
    "--kernel": lambda: msa.layer(a.out, 1, x, kernel="sparse/none"),
    "--rot: expected an even number": lambda: msa.layer(a.out, 1, x, rot=3),
}.items():
    check_refused(what, call, msa.Error)
tempfile.tempdir = f"{home.name}/temporary"
os.mkdir(tempfile.tempdir)
waits = "import msa._program, sys\nwith msa._program.directory() as d:\n    print(d, flush=True)\n    sys.stdin.read()"
killed, alive, late = makers = [
    subprocess.Popen([sys.executable, "-c", waits], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                     env={**os.environ, "TMPDIR": tempfile.tempdir, "PYTHONPATH": str(root / "ref" / "python")}) for _ in range(3)]
made = [Path(maker.stdout.readline().strip()) for maker in makers]
for maker in killed, late:
    maker.terminate()
    maker.wait()
for directory in made[:2]:
    os.utime(directory, (0, 0))
msa.layer(a.out, 1, x)
check([directory.exists() for directory in made] == [False, True, True], "what a killed process left is removed, not what one uses, or may just have made")
alive.communicate()
check(not made[1].exists(), "... and who ends removes its own")
tempfile.tempdir = None
refused = subprocess.run([sys.executable, random_m3.__file__, f"{home.name}/odd", "--dtype", "F8_E4M3", "--d-model", "48"], capture_output=True, text=True)
check(refused.returncode == 2 and "in blocks of 32, found 48" in refused.stderr, "random_m3.py: a width that MXFP8 cannot scale is refused")
os.environ["MSA_PROGRAM"] = os.path.relpath(os.environ["MSA"])
check(same(msa.layer(a.out, 1, x), found), "the program by a relative name")
os.environ["MSA_PROGRAM"] = "/nowhere/msa"
try:
    msa.layer(a.out, 1, x)
    check(False, "without the program")
except msa.Error as e:
    check("expected it in /nowhere/msa, found none" in str(e), "without the program")
finish()
