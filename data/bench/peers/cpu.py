"""PyTorch on the CPU beside ours, on the same tensors in the same run, in float32 and in bf16:
scaled_dot_product_attention beside dense attention and the whole layer, flex_attention with the selection as a mask
beside sparse attention, MSA transcribed with a mask. Needs PyTorch, NumPy, build/libmsa.so and build/msa.

    python3 data/bench/peers/cpu.py [--n 4096 16384] [--queries 1024] [--types bf16] [--flex] [--json FILE]

Numbers are drawn as bf16, and float32 has the same ones. All calls of a type take turns, every second round in reverse
order; ratios are taken round by round, and their median is what counts: so a machine that slows down slows both. With
--queries, fewer than there are keys, they are the last ones of a prompt. PyTorch's mask has no such case, so its
attention goes without: these queries see a few keys more, and only the last one's result is compared.
"""
import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time



def refuse(text):
    print(f"cpu.py: {text}", file=sys.stderr)
    sys.exit(2)


try:
    import numpy as np
    import torch
except ImportError as e:
    refuse(f"expected a Python with NumPy and PyTorch, found one without: {e}")

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..")
sys.path.insert(0, os.path.join(ROOT, "ref", "python"))
import msa

D, BLOCK, K = 128, 128, 16
MASKED = 4096  # the transcription holds whole matrices of logits: no longer than this
TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
LIMIT = {"f32": 2.0**-12, "bf16": 2.0**-5}  # of a row: what rounding in that type, of P too, stays far below
JUDGED = 512  # queries, the first and the last
# Who is compared with whom.
RATIOS = [("dense/fast", "dense/peer:sdpa"), ("prefill/fast", "dense/peer:sdpa"), ("prefill/fast", "dense/fast"),
          ("sparse/fast", "sparse/peer:flex"), ("prefill/fast", "prefill/peer:masked")]


# ---- Peers -----------------------------------------------------------------------------------------------


def batched(x, heads):
    """[1,heads,n,d] of [n,groups,d]: the heads of a group see the same memory."""
    n, groups, d = x.shape
    return x.transpose(0, 1)[None, :, None].expand(1, groups, heads // groups, n, d).reshape(1, heads, n, d)


def sdpa(q, k, v):
    """Dense GQA, causal where there are as many queries as keys; the library picks its kernel."""
    heads = q.shape[1]
    o = torch.nn.functional.scaled_dot_product_attention(*(batched(x, heads) for x in (q, k, v)), is_causal=len(q) == len(k))
    return o[0].transpose(0, 1)


def flex(q, k, v, ids):
    """A call of flex_attention over the selection: blocks that some query of 128 chose, in these the keys of its own."""
    from torch.nn.attention.flex_attention import BlockMask, flex_attention
    (n_q, heads), (n, groups), before = q.shape[:2], k.shape[:2], len(k) - len(q)
    chosen = torch.zeros(groups, n_q, n // BLOCK + 1, dtype=torch.bool)
    ids = torch.from_numpy(ids).long()
    chosen = chosen.scatter_(2, ids.where(ids >= 0, n // BLOCK), True)[:, :, :-1].contiguous()
    some = chosen.unflatten(1, (-1, BLOCK)).any(2).repeat_interleave(heads // groups, 0)[None]
    mask = BlockMask.from_kv_blocks(some.sum(3, dtype=torch.int32), some.byte().argsort(dim=3, descending=True, stable=True).int(),
                                    BLOCK_SIZE=BLOCK, seq_lengths=(n_q, n),
                                    mask_mod=lambda b, h, i, j: (j <= i + before) & chosen[h // (heads // groups), i, j // BLOCK])
    compiled = torch.compile(flex_attention, dynamic=False)
    q, k, v = (batched(x, heads) for x in (q, k, v))
    return lambda: compiled(q, k, v, block_mask=mask)[0].transpose(0, 1)


def transcription(q, k, v, qi, ki):
    """The paper's formulas, a line each, one group at a time; every logit is computed, then masked."""
    n, heads, groups = q.shape[0], q.shape[1], k.shape[1]
    causal = torch.ones(n, n, dtype=torch.bool).tril()
    local = torch.arange(n)[:, None] // BLOCK
    o = torch.empty_like(q)
    for r in range(groups):
        scores = (qi[:, r] @ ki.T).masked_fill(~causal, -torch.inf)
        m = torch.nn.functional.pad(scores, (0, -n % BLOCK), value=-torch.inf).unflatten(1, (-1, BLOCK)).amax(2)
        m.scatter_(1, local, torch.inf)
        best = m.topk(min(K, m.shape[1]), dim=1).indices
        chosen = torch.zeros_like(m, dtype=torch.bool).scatter_(1, best, True)
        mask = causal & chosen.repeat_interleave(BLOCK, dim=1)[:, :n]
        h = slice(r * heads // groups, (r + 1) * heads // groups)
        p = (torch.einsum("ihd,jd->hij", q[:, h], k[:, r]) / D**0.5).masked_fill(~mask, -torch.inf).softmax(2)
        o[:, h] = torch.einsum("hij,jd->ihd", p, v[:, r])
    return o


# ---- In turn ---------------------------------------------------------------------------------------------


def in_turn(calls, seconds):
    """Milliseconds of each call, a list of rounds, 3 at least, and what it found last. All have run once before."""
    ms, found, start = [], {}, time.perf_counter()
    while len(ms) < 3 or (time.perf_counter() - start < seconds * len(calls) and len(ms) < 20):
        ms.append({})
        for name in list(calls)[:: 1 if len(ms) % 2 else -1]:
            t = time.perf_counter()
            found[name] = calls[name]()
            ms[-1][name] = 1e3 * (time.perf_counter() - t)
    return ms, found


def of_rounds(numbers):
    """Median, least and most."""
    x = sorted(numbers)
    return (x[(len(x) - 1) // 2] + x[len(x) // 2]) / 2, x[0], x[-1]


def fastest(call, seconds):
    call()
    return min(x["it"] for x in in_turn({"it": call}, seconds)[0])


def rows_of(o):
    return o.float().numpy() if torch.is_tensor(o) else o


def agree(found, right, dtype):
    """Whether rows are, up to rounding, those of `right`: pairs of a slice of the queries and their O."""
    for part, o in right:
        error = np.linalg.norm(rows_of(found)[part] - o, axis=-1) / np.linalg.norm(o, axis=-1)
        if not (error <= LIMIT[dtype]).all():
            return False
    return True


def right_rows(n_q, n, attend):
    """attend(queries, keys) in float32, of the last queries and, if they are all there, the first."""
    m = min(n_q, JUDGED)
    ends = [(slice(n_q - m, n_q), slice(0, n))] + [(slice(0, m), slice(0, m))] * (n_q == n)
    return [(queries, attend(queries, keys)) for queries, keys in ends]


# ---- The machine -----------------------------------------------------------------------------------------


def our_ceilings(seconds, threads):
    """What `msa bench` measures with any kernel."""
    program = os.environ.get("MSA", os.path.join(ROOT, "build", "msa"))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "ceilings.json")
        run = [program, "bench", "index/amx", "--shape", "T=16 S=16 heads=1:1", "--seconds", str(seconds), "--json", path]
        try:
            subprocess.run(run, check=True, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
        except OSError as e:
            refuse(f"MSA: expected the program msa, which says what tiles can do, found {e}")
        except subprocess.CalledProcessError as e:
            refuse(f"MSA: expected ceilings from {program}, found: {e.stderr.strip()}")
        return json.load(open(path))["ceilings"]


def ceilings(seconds, threads):
    """As in a file of `msa bench`; of two products of bf16, ours and PyTorch's by oneDNN, the faster."""
    a, x = torch.randn(2048, 2048), torch.ones(1 << 28, dtype=torch.uint8)
    y, z, half, ours = torch.empty_like(x), torch.ones(1 << 26), a.bfloat16(), our_ceilings(min(seconds, 0.5), threads)
    peer = 2e-9 * 2048**3 / fastest(lambda: half @ half, seconds)
    print(f"bf16 product: oneDNN {peer:.4g} TFLOP/s, ours {ours['matmul_bf16_tflops']:.4g}, "
          f"{'on tiles' if ours['tiles'] else 'no tiles here'}")
    return ours | {"matmul_f32_gflops": 2e-6 * 2048**3 / fastest(lambda: a @ a, seconds),
                   "matmul_bf16_tflops": max(peer, ours["matmul_bf16_tflops"]),
                   "copy_gbps": 2e-6 * x.numel() / fastest(lambda: y.copy_(x), seconds),
                   "read_gbps": 1e-6 * 4 * z.numel() / fastest(lambda: z.sum(), seconds)}


def cpu_name():
    try:
        line = next(x for x in open("/proc/cpuinfo") if x.startswith("model name"))
        return line.split(":", 1)[1].strip()
    except (OSError, StopIteration):
        return platform.processor() or "CPU"


# ---- A length, a type ------------------------------------------------------------------------------------


def drawn(n_q, n, heads, groups):
    """q, k, v, qi, ki in bf16."""
    torch.manual_seed(1)
    sizes = (n_q, heads, D), (n, groups, D), (n, groups, D), (n_q, groups, D), (n, D)
    return [torch.randn(size, dtype=torch.bfloat16) for size in sizes]


def work(n_q, n, heads, groups):
    """Useful operations of each stage: those of pairs that are visible and, of sparse, chosen."""
    seen = np.arange(n - n_q, n)
    pairs, kept = float((seen + 1.0).sum()), float((np.minimum(K - 1, seen // BLOCK) * BLOCK + seen % BLOCK + 1.0).sum())
    flops = {"dense": 4 * heads * D * pairs, "sparse": 4 * heads * D * kept}
    return flops | {"prefill": 2 * groups * D * pairs + flops["sparse"]}


def calls_of(dtype, tensors, use_flex):
    """What is timed: name -> call, and name -> what is right."""
    q, k, v, qi, ki = (x.to(TYPES[dtype]) for x in tensors)
    whole = [x.float() for x in tensors]
    n_q, n = len(q), len(k)
    ids = msa.index(qi, ki, block=BLOCK, topk=K)
    dense = right_rows(n_q, n, lambda i, j: msa.dense(whole[0][i], whole[1][j], whole[2][j])[0])
    sparse = right_rows(n_q, n, lambda i, j: msa.sparse(whole[0][i], whole[1][j], whole[2][j], ids[:, i], block=BLOCK)[0])
    last = [(slice(n_q - 1, n_q), dense[0][1][-1:])]
    calls = {"dense/fast": (lambda: msa.dense(q, k, v)[0], dense),
             "dense/peer:sdpa": (lambda: sdpa(q, k, v), dense if n_q == n else last),
             "prefill/fast": (lambda: msa.prefill(q, k, v, qi, ki, block=BLOCK, topk=K)[1], sparse)}
    if n_q == n <= MASKED and dtype == "f32":
        calls["prefill/peer:masked"] = (lambda: transcription(q, k, v, qi, ki), sparse)
    if use_flex and n_q % BLOCK == n % BLOCK == 0:
        try:
            call = flex(q, k, v, ids)
            call()
            calls["sparse/fast"] = (lambda: msa.sparse(q, k, v, ids, block=BLOCK)[0], sparse)
            calls["sparse/peer:flex"] = (call, sparse)
        except Exception as e:  # of its compiler, or of that of C++ behind it
            print(f"flex_attention does not run here in {dtype}: {str(e).strip().splitlines()[0]}")
    return {name: call for name, (call, _) in calls.items()}, {name: right for name, (_, right) in calls.items()}


def measured(dtype, tensors, flops, seconds, use_flex):
    """Rows and ratios of one type, as in a file of results."""
    calls, right = calls_of(dtype, tensors, use_flex)
    q, k = tensors[:2]
    size = {"dtype": dtype, "n": len(k), "n_q": len(q), "n_heads": q.shape[1], "n_kv_heads": k.shape[1]}
    ok = {name: agree(call(), right[name], dtype) for name, call in calls.items()}
    rounds, found = in_turn(calls, seconds)
    rows, ratios = [], []
    for name in calls:
        stage, kernel = name.split("/")
        ok[name] = ok[name] and agree(found[name], right[name], dtype)
        median, least, most = of_rounds(x[name] for x in rounds)
        print(f"N={len(k):<7} {dtype:4} {stage:8} {kernel:12} {median:10.1f} ms  {flops[stage] / median * 1e-6:7.1f} GFLOP/s"
              f"  {'agrees' if ok[name] else 'DISAGREES'}", flush=True)
        rows.append({"stage": stage, "kernel": kernel, "batch": 1, "d_head": D, "block": BLOCK, "topk": K, "distribution": None,
                     "union8": None, "index_dtype": dtype if stage == "prefill" else None, "lse": kernel == "fast",
                     "deterministic": None, "ms_median": median, "ms_min": least, "ms_max": most, "repeats": len(rounds),
                     "useful_tflops": flops[stage] / median * 1e-9, "gbps": None, "verified": ok[name]} | size)
    for of, over in RATIOS:
        if of in calls and over in calls:
            median, least, most = of_rounds(x[over] / x[of] for x in rounds)
            print(f"N={len(k):<7} {dtype:4} {of} is {median:.2f} times as fast as {over} ({least:.2f}..{most:.2f})", flush=True)
            ratios.append({"of": of, "over": over, "median": median, "min": least, "max": most, "pairs": len(rounds)} | size)
    return rows, ratios


def write(path, threads, top, rows, ratios):
    commit = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"],
                            capture_output=True, text=True).stdout.strip() or "unknown"
    with open(path, "w") as f:
        json.dump({"device": f"{cpu_name()}, {threads} threads", "driver": None, "cuda": None, "commit": commit,
                   "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
                   "command": " ".join(["python3", *sys.argv]), "ceilings": top, "results": rows, "ratios": ratios}, f, indent=2)
        f.write("\n")


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--n", type=int, nargs="+", default=[4096, 16384], help="keys, and queries unless --queries says how many")
    a.add_argument("--queries", type=int, help="the last ones of a prompt")
    a.add_argument("--types", nargs="+", choices=list(TYPES), default=list(TYPES))
    a.add_argument("--heads", type=int, nargs=2, default=[16, 1])
    a.add_argument("--threads", type=int, default=os.cpu_count())
    a.add_argument("--seconds", type=float, default=5, help="for a call, which runs 3 times at least")
    a.add_argument("--flex", action="store_true", help="flex_attention too, which has to be compiled first")
    a.add_argument("--json")
    a = a.parse_args()
    torch.set_num_threads(a.threads)
    torch.set_grad_enabled(False)
    rows, ratios = [], []
    print(f"{cpu_name()}, {a.threads} threads, PyTorch {torch.__version__}, heads {a.heads[0]}:{a.heads[1]}")
    for n in a.n:
        n_q = min(n, a.queries or n)
        if n_q < n:
            print(f"{n_q} queries at the end of {n} keys: PyTorch's without the causal mask")
        for dtype in a.types:
            tensors = drawn(n_q, n, *a.heads)
            found = measured(dtype, tensors, work(n_q, n, *a.heads), a.seconds, a.flex)
            rows, ratios = rows + found[0], ratios + found[1]
    top = ceilings(min(a.seconds, 1), a.threads)
    print("float32 product {matmul_f32_gflops:.0f} GFLOP/s, copy {copy_gbps:.1f} GB/s, read {read_gbps:.1f} GB/s".format(**top))
    if a.json:
        write(a.json, a.threads, top, rows, ratios)
    return not all(row["verified"] for row in rows)


if __name__ == "__main__":
    sys.exit(main())
