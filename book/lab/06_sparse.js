// Chapter 6: the supports of all queries for a choice of blocks, and the weight that one query keeps.
"use strict";
(() => {
    const n = 96, d = 8, groups = 2, margin = 8, between = 24;
    const kinds = ["random", "hot", "local", "structured"]; // selection_kind, in its order
    const side = width => (width - 2 * margin - between) / 2;

    lab.figure("06_sparse", {
        title: "The tokens that each query attends to, in two groups",
        controls: {
            query: { label: "query", min: 0, max: n - 1, value: n - 1 },
            k: { label: "blocks kept, k", min: 1, max: 16, value: 4 },
            block: { label: "tokens in a block", options: lab.list([4, 6, 8, 12, 16, 24]), value: "8" },
            kind: { label: "chosen", options: { index: "by msa_index()", random: "at random", local: "the nearest", structured: "as in the paper's figure 5" }, value: "index" },
        },
        compute(c, x, msa) {
            const sizes = { n_q: n, n_heads: groups, n_kv_heads: groups, d_head: d, d_index: d, block: Number(x.block), topk: x.k };
            const shape = c.shape(sizes), work = c.work(shape), rows = n * groups;
            const q = c.noise(rows * d, 31), ki = c.noise(n * d, 32), v = c.noise(rows * d, 33);
            const key = c.floats(ki, n * d), k = c.put(Float32Array.from({ length: rows * d }, (_, a) => key[Math.floor(a / (groups * d)) * d + a % d]));
            const ids = c.room(4 * rows * x.k); // queries and keys are those of the index: it knows where attention looks
            if (x.kind === "index") c.must(msa.msa_index(shape, q, ki, 0, ids, 0, work));
            else msa.lab_select(shape, kinds.indexOf(x.kind), 1, ids);
            const attend = call => {
                const o = c.room(4 * rows * d), lse = c.room(4 * rows);
                c.must(call(o, lse));
                return { o: c.floats(o, rows * d), lse: c.floats(lse, rows) };
            };
            const sparse = attend((o, lse) => msa.msa_sparse(shape, q, k, v, ids, o, lse, work)), dense = attend((o, lse) => msa.msa_dense(shape, q, k, v, o, lse, work));
            const kept = sparse.lse.map((lse, a) => Math.exp(lse - dense.lse[a]));
            const off = Array.from(kept, (_, a) => Math.hypot(...sparse.o.slice(a * d, (a + 1) * d).map((o, i) => o - dense.o[a * d + i])) / Math.sqrt(d));
            return { ids: c.ints(ids, rows * x.k), sparse, dense, kept, off };
        },
        draw(g, r, x) {
            const block = Number(x.block), cell = side(g.width) / n;
            g.height = 26 + n * cell + 24;
            for (let group = 0; group < groups; group++) {
                const left = margin + group * (side(g.width) + between);
                g.text(left + side(g.width) / 2, 16, "middle", "ink", `group ${group}`);
                for (let i = 0; i < n; i++) {
                    const y = 26 + i * cell;
                    g.box(left, y, (i + 1) * cell, cell, "pale");
                    for (const b of r.ids.slice((group * n + i) * x.k, (group * n + i + 1) * x.k))
                        if (b >= 0) g.box(left + b * block * cell, y, (Math.min((b + 1) * block, i + 1) - b * block) * cell, cell, b === Math.floor(i / block) ? "orange" : "blue", 0.9);
                }
                g.path([[left, 26 + x.query * cell], [left + side(g.width), 26 + x.query * cell]], "ink", 1);
                g.path([[left, 26 + (x.query + 1) * cell], [left + side(g.width), 26 + (x.query + 1) * cell]], "ink", 1);
                g.text(left + side(g.width) / 2, g.height - 6, "middle", "faint", "keys 0 to 95");
            }
        },
        say(r, x) {
            const block = Number(x.block), percent = v => `${(100 * v).toFixed(1)} %`;
            const both = of => [0, 1].map(of).join(" and ");
            const read = group => [...r.ids.slice((group * n + x.query) * x.k, (group * n + x.query + 1) * x.k)]
                .reduce((sum, b) => sum + (b < 0 ? 0 : Math.min((b + 1) * block, x.query + 1) - b * block), 0);
            return [
                [`tokens that query ${x.query} reads`, `${both(read)} of ${x.query + 1}`],
                ["weight it keeps, μ", both(group => percent(Math.min(1, r.kept[x.query * groups + group])))],
                ["its output is off by (rms)", both(group => r.off[x.query * groups + group].toFixed(4))],
                ["weight kept, mean of all queries", percent(r.kept.reduce((a, b) => a + b) / r.kept.length)],
            ];
        },
        point: at => ({ query: Math.max(0, Math.min(n - 1, Math.floor((at.y - 26) / (side(at.width) / n)))) }),
    });
})();
