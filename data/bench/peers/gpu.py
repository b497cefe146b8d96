"""Peers on a GPU, added to files that `msa bench --json` has just written there: for their rows of dense
attention and its gradient PyTorch's scaled_dot_product_attention (flash and cuDNN), of top-k torch.topk, of sparse attention a
per-token block-sparse kernel in Triton. Each is checked on sampled queries before and after it is timed.

    python3 data/bench/peers/gpu.py data/bench/*.json
    TRITON_INTERPRET=1 python3 data/bench/peers/gpu.py --self-test     the Triton kernel, on a CPU
"""
import json
import os
import sys

import torch
import triton
import triton.language as tl

L2 = 64 << 20  # bytes that inputs have to outgrow twice
REPEATS, SECONDS = 20, 2.0


@triton.jit
def attend_blocks(Q, K, V, IDS, O, T, prefix, heads, groups, k, scale,
                  G: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr):
    """A program a query and group: its G heads are the rows of each product."""
    i, r = tl.program_id(0), tl.program_id(1)
    row, c, b = tl.arange(0, G), tl.arange(0, D), tl.arange(0, BLOCK)
    head = (i.to(tl.int64) * heads + r * G + row)[:, None] * D + c[None, :]
    q = tl.load(Q + head)
    m = tl.full([G], float("-inf"), tl.float32)
    l = tl.zeros([G], tl.float32)
    acc = tl.zeros([G, D], tl.float32)
    for slot in range(k):
        block = tl.load(IDS + (r.to(tl.int64) * T + i) * k + slot)
        if block >= 0:
            token = block * BLOCK + b
            seen = token <= prefix + i
            at = (token.to(tl.int64) * groups + r)[:, None] * D + c[None, :]
            keys = tl.load(K + at, mask=seen[:, None], other=0)
            x = tl.dot(q, tl.trans(keys)) * scale
            x = tl.where(seen[None, :], x, float("-inf"))
            top = tl.maximum(m, tl.max(x, 1))
            p = tl.exp2(x - top[:, None])
            keep = tl.exp2(m - top)
            l = l * keep + tl.sum(p, 1)
            values = tl.load(V + at, mask=seen[:, None], other=0)
            acc = acc * keep[:, None] + tl.dot(p.to(values.dtype), values)
            m = top
    tl.store(O + head, (acc / l[:, None]).to(q.dtype))


def block_sparse(q, k, v, ids, block):
    """q [T,Hq,d], k and v [S,Hkv,d], ids [Hkv,T,k] int32, -1 after the last."""
    n, heads, d = q.shape
    groups, o = k.shape[1], torch.empty_like(q)
    attend_blocks[(n, groups)](q, k, v, ids, o, n, k.shape[0] - n, heads, groups, ids.shape[2],
                               1.4426950408889634 / d**0.5, G=heads // groups, D=d, BLOCK=block)
    return o


# ---- Selections: the rules of ref/judge/selections.h, not its random numbers --------------------------------


def draw(kind, groups, n, prefix, block, k, device, seed=1):
    g = torch.Generator(device=device).manual_seed(seed)
    local = ((prefix + torch.arange(n, device=device)) // block)[None, :, None]
    n_blocks = int(local.max()) + 1
    ids = torch.empty(groups, n, k, dtype=torch.int32, device=device)
    step = max(1, (1 << 26) // n_blocks)
    for r in range(groups):
        hot = torch.randperm(n_blocks, generator=g, device=device)[:4]
        offsets = torch.exp(torch.rand(6, generator=g, device=device) * torch.log(torch.tensor(float(n_blocks)))).long()
        for first in range(0, n, step):
            mine = local[0, first:first + step, 0]
            b = torch.arange(n_blocks, device=device)[None, :]
            if kind == "structured":  # the rest is redrawn every 32 tokens
                rank = torch.rand((len(mine) + 31) // 32, n_blocks, generator=g, device=device)
                rank = rank.repeat_interleave(32, 0)[:len(mine)].clone()
                coin = torch.rand(len(mine), 7, generator=g, device=device)
                rank[:, 0] = torch.where(coin[:, 6] < 0.9, 2.0, rank[:, 0])
                for a, far in enumerate(offsets):
                    at = (mine - far).clamp(min=0)[:, None]
                    there = (coin[:, a] < 0.8) & (mine - far >= 0)
                    rank.scatter_(1, at, torch.where(there[:, None], 2.0, rank.gather(1, at)))
            else:
                rank = torch.rand(len(mine), n_blocks, generator=g, device=device)
            if kind == "hot":
                rank[:, hot] += (torch.rand(len(mine), 4, generator=g, device=device) < 0.9).float()
            if kind == "local":
                rank = b.float().expand(len(mine), -1).clone()
            rank.masked_fill_(b > mine[:, None], -1).scatter_(1, mine[:, None], 9.0)
            value, best = rank.topk(min(k, n_blocks), 1)
            best = torch.where(value < 0, n_blocks, best).sort(1).values
            row = torch.full((len(mine), k), -1, dtype=torch.int32, device=device)
            row[:, :best.shape[1]] = torch.where(best == n_blocks, -1, best).int()
            ids[r, first:first + step] = row
    return ids


def union8(ids):
    """Mean number of different blocks that 8 neighbouring queries chose, over full eights (ref/judge/selections.c)."""
    groups, n, k = ids.shape
    count, step = 0, 1 << 20
    for r in range(groups):
        x = ids[r, :n // 8 * 8].view(-1, 8 * k)
        for part in x.split(step):
            part = part.sort(1).values
            count += int((part[:, 0] >= 0).sum() + ((part[:, 1:] != part[:, :-1]) & (part[:, 1:] >= 0)).sum())
    return count / (groups * (n // 8))


# ---- Judging and timing ------------------------------------------------------------------------------------


def attention_of(q, k, v, i, tokens):
    """Query i in float64 over these tokens (a list a group)."""
    heads, groups, d = q.shape[1], k.shape[1], q.shape[2]
    o = []
    for r in range(groups):
        x = q[i, r * heads // groups:(r + 1) * heads // groups].double() @ k[tokens[r], r].double().T / d**0.5
        o.append(x.softmax(1) @ v[tokens[r], r].double())
    return torch.cat(o)


def right(o, q, k, v, ids, block, rows=16):
    """Whether sampled queries are within what bf16 P and a bf16 output can lose: 2^-6 of the row's scale."""
    n, prefix = q.shape[0], k.shape[0] - q.shape[0]
    for i in sorted({round(a * (n - 1) / (rows - 1)) for a in range(rows)}):
        last = prefix + i
        if ids is None:
            tokens = [torch.arange(last + 1, device=q.device)] * k.shape[1]
        else:
            tokens = [torch.cat([torch.arange(b * block, min(b * block + block, last + 1), device=q.device)
                                 for b in ids[r, i].tolist() if b >= 0]) for r in range(k.shape[1])]
        expected = attention_of(q, k, v, i, tokens)
        if not bool(((o[i].double() - expected).abs() <= 2.0**-6 * expected.abs().amax(1, keepdim=True)).all()):
            return False
    return True


def right_gradients(found, q, k, v, dout, rows=16):
    """The same for the gradients of dense attention: dQ of sampled queries, dK and dV of the last keys, which
    only the last queries see. 2^-5 of the row's scale: dS is rounded too. Query 0 sees one key, and its dQ is 0."""
    n, heads, d = q.shape
    groups, group, scale = k.shape[1], heads // k.shape[1], d**-0.5
    dk, dv = (torch.zeros(rows, groups, d, dtype=torch.float64, device=q.device) for _ in range(2))

    def near(x, expected):
        return bool(((x.double() - expected).abs() <= 2.0**-5 * expected.abs().amax(-1, keepdim=True)).all())

    for i in sorted({1 + round(a * (n - rows - 2) / (rows - 1)) for a in range(rows)} | set(range(n - rows, n))):
        for r in range(groups):
            mine = slice(r * group, (r + 1) * group)
            qi, gi, keys, values = (x.double() for x in (q[i, mine], dout[i, mine], k[:i + 1, r], v[:i + 1, r]))
            p = (qi @ keys.T * scale).softmax(1)
            dp = gi @ values.T
            ds = p * (dp - (dp * p).sum(1, keepdim=True)) * scale
            if not near(found[0][i, mine], ds @ keys):
                return False
            seen = i + 1 - (n - rows)
            if seen > 0:
                dk[:seen, r] += ds[:, -seen:].T @ qi
                dv[:seen, r] += p[:, -seen:].T @ gi
    return near(found[1][n - rows:], dk) and near(found[2][n - rows:], dv)


def timed(run, inputs, prepare=lambda *x: x):
    """Milliseconds, sorted; copies of the inputs, each prepared once, take turns."""
    size = sum(x.numel() * x.element_size() for x in inputs)
    copies = [inputs] + [[x.clone() for x in inputs] for _ in range(min(63, 2 * L2 // size))]
    copies = [prepare(*x) for x in copies]
    ms = []
    for a in range(3 + REPEATS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run(*copies[a % len(copies)])
        end.record()
        end.synchronize()
        if a >= 3:
            ms.append(begin.elapsed_time(end))
        if len(ms) >= 3 and sum(ms) > 1e3 * SECONDS:
            break
    return sorted(ms)


def sdpa(q, k, v):
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)[0].transpose(0, 1)


def gradients(o, q, k, v, dout):
    return torch.autograd.grad(o, (q, k, v), dout, retain_graph=True)


def with_graph(attention):
    """What gradients() takes: the forward pass is not timed."""
    def prepare(q, k, v, dout):
        q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
        return attention(q, k, v), q, k, v, dout
    return prepare


def peers_of(row, device):
    """(name, run, inputs, check, union8, prepare) of each peer of a row."""
    n, n_q, batch = row["n"], row["n_q"], row["batch"]
    heads, groups, d = row["n_heads"], row["n_kv_heads"], row["d_head"]

    def normal(*shape):
        return torch.randn(*shape, device=device, dtype=torch.bfloat16)

    if batch != 1 or row["stage"] not in ("dense", "dense_backward", "topk", "sparse"):
        return
    if row["stage"] == "topk":
        n_blocks = -(-n // row["block"])
        scores = torch.randn(groups, n_q, n_blocks, device=device)
        yield ("peer:torch.topk", lambda s: torch.topk(s, row["topk"], dim=2, sorted=False).indices, [scores],
               lambda o, s: bool((s.gather(2, o)[:, ::1013].amin(2) >= s[:, ::1013].sort(2).values[:, :, -row["topk"]]).all()), None,
               lambda s: [s])
        return
    q, k, v = normal(n_q, heads, d), normal(n, groups, d), normal(n, groups, d)
    if row["stage"] == "sparse":
        ids = draw(row["distribution"], groups, n_q, n - n_q, row["block"], row["topk"], device)
        yield ("peer:triton", lambda q, k, v: block_sparse(q, k, v, ids, row["block"]), [q, k, v],
               lambda o, q, k, v: right(o, q, k, v, ids, row["block"]), union8(ids), lambda *x: x)
    elif n == n_q:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        def by(backend):
            def run(q, k, v):
                with sdpa_kernel(backend):
                    return sdpa(q, k, v)
            return run

        for name, backend in (("flash", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION)):
            if row["stage"] == "dense":
                yield ("peer:sdpa-" + name, by(backend), [q, k, v], lambda o, q, k, v: right(o, q, k, v, None, 1),
                       None, lambda *x: x)
            else:
                yield ("peer:sdpa-" + name, gradients, [q, k, v, normal(n_q, heads, d)], right_gradients, None,
                       with_graph(by(backend)))


def add_peers(path):
    with open(path) as f:
        file = json.load(f)
    done, rows = set(), [r for r in file["results"] if not r["kernel"].startswith("peer:")]
    for row in list(rows):
        key = (row["stage"], row["n"], row["n_q"], row["distribution"])
        if key in done:
            continue
        done.add(key)
        for name, run, inputs, check, union, prepare in peers_of(row, "cuda"):
            try:
                ok = check(run(*prepare(*inputs)), *inputs)
                ms = timed(run, inputs, prepare)
                ok = ok and check(run(*prepare(*inputs)), *inputs)
            except RuntimeError as error:
                print(f"{path}: {row['stage']} {name}: left out: {str(error).splitlines()[0]}")
                continue
            median = ms[len(ms) // 2]
            peer = dict(row, kernel=name, union8=union, lse=False, ms_median=median, ms_min=ms[0], ms_max=ms[-1],
                        repeats=len(ms), verified=ok)
            for rate in ("useful_tflops", "gbps"):
                peer[rate] = row[rate] and float(f"{row[rate] * row['ms_median'] / median:.6g}")
            print(f"{path}: {row['stage']} {name}: {median:.4g} ms{'' if ok else ', WRONG: left out'}")
            if ok:
                rows.append(peer)
    file["results"] = rows
    with open(path + ".tmp", "w") as f:
        json.dump(file, f, indent=2)
        f.write("\n")
    os.replace(path + ".tmp", path)


def self_test():
    """The Triton kernel, the selections and the check of gradients at a small size, wherever Triton runs."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind_of = torch.bfloat16 if device == "cuda" else torch.float32
    agree = torch.tensor([[0, 2, -1]] * 8, dtype=torch.int32).repeat(2, 1)
    alone = torch.arange(48, dtype=torch.int32).view(16, 3)
    bad = union8(torch.stack([agree, alone])) != (2 + 24) / 2
    for kind in ("random", "hot", "local", "structured"):
        torch.manual_seed(3)
        n, prefix, block = 40, 90, 16
        q = torch.randn(n, 32, 16, device=device).to(kind_of)
        k, v = (torch.randn(n + prefix, 2, 16, device=device).to(kind_of) for _ in range(2))
        ids = draw(kind, 2, n, prefix, block, 3, device)
        local = (prefix + torch.arange(n, device=device)) // block
        rows = bool(((ids == local[None, :, None].int()).sum(2) == 1).all()) and bool((ids[..., 1:] > ids[..., :-1]).all())
        ok = rows and right(block_sparse(q, k, v, ids, block), q, k, v, ids, block)
        wrong = right(block_sparse(q, k, v, ids.roll(1, 1), block), q, k, v, ids, block) if kind != "local" else False
        print(f"{kind}: {'ok' if ok and not wrong else 'FAILED'}")
        bad += not ok or wrong
    q, dout = (torch.randn(70, 8, 16, device=device).to(kind_of) for _ in range(2))
    k, v = (torch.randn(70, 2, 16, device=device).to(kind_of) for _ in range(2))
    found = gradients(*with_graph(sdpa)(q, k, v, dout))
    ok = right_gradients(found, q, k, v, dout)
    wrong = any(right_gradients([x.roll(1, 2) if a == b else x for b, x in enumerate(found)], q, k, v, dout) for a in range(3))
    print(f"gradients of scaled_dot_product_attention: {'ok' if ok and not wrong else 'FAILED'}")
    return bad + (not ok or wrong)


if __name__ == "__main__":
    if sys.argv[1:] == ["--self-test"]:
        sys.exit(self_test() > 0)
    if not torch.cuda.is_available():
        sys.exit("peers/gpu.py: expected a CUDA device, found none")
    for argument in sys.argv[1:]:
        add_peers(argument)
