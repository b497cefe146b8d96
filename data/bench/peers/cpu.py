"""PyTorch on the CPU beside ours, on the same tensors in the same run: scaled_dot_product_attention for dense
attention, and MSA transcribed with a mask. Needs PyTorch, NumPy and build/libmsa.so.

    python3 data/bench/peers/cpu.py [--n 4096 16384] [--heads 16 1] [--threads 2] [--seconds 5] [--json FILE]
"""
import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time

import numpy as np
import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "ref"))
import msa

D, BLOCK, K = 128, 128, 16
MASKED = 4096  # the transcription holds whole matrices of logits: no longer than this


def sdpa(q, k, v):
    """Dense causal GQA; the library picks its kernel."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    o = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return o[0].transpose(0, 1)


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


def ours(q, k, v, qi, ki):
    return msa.prefill(q, k, v, qi, ki, block=BLOCK, topk=K)[1]


def timed(call, seconds):
    """Milliseconds of at least 3 runs, in order, and what the last one found. The caller has run it once."""
    ms, start = [], time.perf_counter()
    while len(ms) < 3 or (time.perf_counter() - start < seconds and len(ms) < 20):
        t = time.perf_counter()
        found = call()
        ms.append(1e3 * (time.perf_counter() - t))
    return sorted(ms), found


def fastest(call, seconds):
    call()
    return timed(call, seconds)[0][0]


def agree(a, b, scale):
    """Two float32 computations of the same formula: each may lose what ref/judge/verdict.c allows one."""
    return bool((np.abs(np.asarray(a) - np.asarray(b)) <= 2 * scale).all())


def ceilings(seconds):
    a, x = torch.randn(2048, 2048), torch.ones(1 << 28, dtype=torch.uint8)
    y = torch.empty_like(x)
    z = torch.ones(1 << 26)
    return {"matmul_f32_gflops": 2e-6 * 2048**3 / fastest(lambda: a @ a, seconds),
            "copy_gbps": 2e-6 * x.numel() / fastest(lambda: y.copy_(x), seconds),
            "read_gbps": 1e-6 * 4 * z.numel() / fastest(lambda: z.sum(), seconds)}


def cpu_name():
    try:
        line = next(x for x in open("/proc/cpuinfo") if x.startswith("model name"))
        return line.split(":", 1)[1].strip()
    except (OSError, StopIteration):
        return platform.processor() or "CPU"


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--n", type=int, nargs="+", default=[4096, 16384])
    a.add_argument("--heads", type=int, nargs=2, default=[16, 1])
    a.add_argument("--threads", type=int, default=os.cpu_count())
    a.add_argument("--seconds", type=float, default=5)
    a.add_argument("--json")
    a = a.parse_args()
    torch.set_num_threads(a.threads)
    heads, groups = a.heads
    rows, failed = [], False
    print(f"{cpu_name()}, {a.threads} threads, PyTorch {torch.__version__}, heads {heads}:{groups}")
    for n in a.n:
        torch.manual_seed(1)
        q, k, v = torch.randn(n, heads, D), torch.randn(n, groups, D), torch.randn(n, groups, D)
        qi, ki = torch.randn(n, groups, D), torch.randn(n, D)
        norms = float(q.norm(dim=2).max() * k.norm(dim=2).max())
        scale = 2.0**-24 * (2 * norms + 8 + n / 4) * float(v.abs().max())
        dense, sparse = msa.dense(q, k, v)[0], ours(q, k, v, qi, ki)
        pairs, kept = n * (n + 1) / 2, sum(min(K - 1, i // BLOCK) * BLOCK + i % BLOCK + 1 for i in range(n))
        flops = {"dense": 4 * heads * D * pairs, "prefill": 2 * groups * D * pairs + 4 * heads * D * kept}
        runs = [("dense", "fast", lambda: msa.dense(q, k, v)[0], dense),
                ("dense", "peer:sdpa", lambda: sdpa(q, k, v), dense),
                ("prefill", "fast", lambda: ours(q, k, v, qi, ki), sparse)]
        if n <= MASKED:
            runs.append(("prefill", "peer:masked", lambda: transcription(q, k, v, qi, ki), sparse))
        for stage, name, call, right in runs:
            ok = agree(call(), right, scale)
            ms, found = timed(call, a.seconds)
            ok = ok and agree(found, right, scale)
            failed |= not ok
            median = ms[len(ms) // 2]
            print(f"N={n:<7} {stage:8} {name:12} {median:10.1f} ms  {flops[stage] / median * 1e-6:7.1f} GFLOP/s"
                  f"  {'agrees' if ok else 'DISAGREES'}", flush=True)
            rows.append({"stage": stage, "kernel": name, "n": n, "n_q": n, "batch": 1, "n_heads": heads,
                         "n_kv_heads": groups, "d_head": D, "block": BLOCK, "topk": K, "distribution": None,
                         "union8": None, "index_dtype": "f32" if stage == "prefill" else None, "lse": name == "fast",
                         "deterministic": None, "ms_median": median, "ms_min": ms[0], "ms_max": ms[-1],
                         "repeats": len(ms), "useful_tflops": flops[stage] / median * 1e-9, "gbps": None,
                         "verified": ok})
    top = ceilings(min(a.seconds, 1))
    print("product {matmul_f32_gflops:.0f} GFLOP/s, copy {copy_gbps:.1f} GB/s, read {read_gbps:.1f} GB/s".format(**top))
    if a.json:
        commit = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"],
                                capture_output=True, text=True).stdout.strip() or "unknown"
        with open(a.json, "w") as f:
            json.dump({"device": f"{cpu_name()}, {a.threads} threads", "driver": None, "cuda": None, "commit": commit,
                       "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
                       "command": " ".join(["python3", *sys.argv]), "ceilings": top, "results": rows}, f, indent=2)
            f.write("\n")
    return failed


sys.exit(main())
