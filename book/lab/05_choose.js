// Chapter 5: the scores of a query and the blocks that it keeps, ranked by scores or by their exponentials.
"use strict";
(() => {
    const n = 96, d = 16, sizes = [4, 6, 8, 12, 16, 24, 32];
    const list = (values, of = v => v) => Object.fromEntries(values.map(v => [v, of(v)]));

    // What softmax leaves of scores in float32: below -104 from the largest nothing.
    const exponentials = scores => scores.map(m => Math.fround(Math.exp(m - Math.max(...scores))));

    lab.figure("05_choose", {
        title: "Index scores of a query, and the blocks that it keeps",
        controls: {
            query: { label: "query at position", min: 0, max: n - 1, value: 91 },
            k: { label: "blocks kept, k", min: 1, max: 12, value: 4 },
            block: { label: "tokens in a block", options: list(sizes), value: "12" },
            rank: { label: "ranked by", options: { score: "scores", exp: "exp in float32" }, value: "score" },
            times: { label: "scores times", options: list([1, 8, 32, 128]), value: "1" },
        },
        compute(c, x, msa) {
            const shape = { n_q: n, d_index: d, block: Number(x.block), topk: x.k };
            const ki = c.noise(n * d, 22), qi = c.put(c.floats(c.noise(n * d, 21), n * d).map(q => q * x.times));
            const { scores, ids, blocks } = c.index(shape, qi, ki);
            const token = c.index({ ...shape, block: 1, topk: 1 }, qi, ki).scores.slice(x.query * n, x.query * n + x.query + 1);
            const local = Math.floor(x.query / x.block), row = scores.slice(x.query * blocks, x.query * blocks + local + 1);
            const weights = exponentials(row);
            let kept = ids.slice(x.query * x.k, (x.query + 1) * x.k);
            const right = kept;
            if (x.rank === "exp") { // msa_topk() on other scores
                const all = scores.slice(), chosen = c.room(4 * n * x.k), s = c.shape(shape);
                all.set(weights, x.query * blocks);
                c.must(msa.msa_topk(s, c.put(all), chosen, c.work(s)));
                kept = c.ints(chosen, n * x.k).slice(x.query * x.k, (x.query + 1) * x.k);
            }
            return { token, row, local, blocks, kept: [...kept], right: [...right], lost: weights.filter(w => w === 0).length };
        },
        draw(g, r, x) {
            const block = Number(x.block), step = (g.width - 16) / n, zero = 130, top = Math.max(...r.token.map(Math.abs), 1e-30), tall = 110 / top;
            g.height = 268;
            for (let b = 0; b < r.blocks; b++) {
                const left = 8 + b * block * step, w = Math.min(block, n - b * block) * step, kept = r.kept.includes(b);
                if (kept) g.box(left + 1, 8, w - 2, 238, "orange", 0.16);
                for (let j = b * block; j < Math.min((b + 1) * block, n); j++) {
                    const at = 8 + j * step, y = r.token[j] * tall;
                    if (j > x.query) g.box(at + 0.5, zero - 3, step - 1, 6, "pale");
                    else g.box(at + 0.5, y > 0 ? zero - y : zero, step - 1, Math.abs(y) + 0.5, r.token[j] === r.row[b] ? "orange" : "blue", r.token[j] === r.row[b] ? 1 : 0.5);
                }
                if (b <= r.local) g.line(left + 1, zero - r.row[b] * tall, left + w - 1, zero - r.row[b] * tall, "orange", 2);
                if (b) g.line(left, 8, left, 248, "pale");
                if (w >= 16) g.text(left + w / 2, 262, "middle", kept ? "orange" : "ink", w > 40 && b === r.local ? "local" : b);
            }
            g.line(8, zero, g.width - 8, zero, "faint");
        },
        say: (r, x) => [
            ["blocks kept", r.kept.filter(b => b >= 0).join(" ")],
            ["local block", r.local],
            ["best score", Math.max(...r.row).toFixed(3)],
            ["exp in float32 is 0 for", `${r.lost} of ${r.row.length} blocks`],
            ...(x.rank === "exp" ? [["the scores choose", r.right.filter(b => b >= 0).join(" ")]] : []),
        ],
        point: (at, r) => ({ query: Math.max(0, Math.min(n - 1, Math.floor((at.x - 8) / ((at.width - 16) / n)))) }),
    });
})();
