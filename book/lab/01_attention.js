// Chapter 1: the weights of every query, and over how many keys one spreads itself.
"use strict";
(() => {
    const margin = 26;
    const cell = (width, n) => Math.min(17, (width - margin - 2) / n);

    lab.figure("01_attention", {
        title: "Causal attention weights",
        controls: {
            n: { label: "tokens, N", min: 2, max: 64, value: 24 },
            d: { label: "head width, d", options: lab.list([4, 8, 16, 32, 64]), value: "8" },
            scale: { label: "logits", options: { yes: "divided by √d", no: "not divided" }, value: "yes" },
            query: { label: "query i", min: 0, max: x => x.n - 1, value: 23 },
        },
        compute(c, x, msa) {
            const n = x.n, d = Number(x.d), times = x.scale === "yes" ? 1 : Math.sqrt(d);
            const shape = c.shape({ n_q: n, d_head: d, block: 1, topk: 1 }), mass = c.room(4 * n * n); // blocks of one token
            const q = c.put(c.floats(c.noise(n * d, 5), n * d).map(v => v * times));
            c.must(msa.msa_block_mass(shape, q, c.noise(n * d, 6), mass, c.room(msa.msa_recall_workspace(shape))));
            const p = c.floats(mass, n * n), row = p.slice(x.query * n, x.query * n + x.query + 1);
            return { p, row, spread: Math.exp(-row.reduce((sum, v) => sum + (v > 0 ? v * Math.log(v) : 0), 0)) };
        },
        draw(g, r, x) {
            const n = x.n, size = cell(g.width, n), i = x.query, gap = size > 6 ? 1 : 0, under = 24 + n * size;
            g.height = under + 92;
            g.text(margin + n * size / 2, 14, "middle", "ink", "keys j");
            g.text(margin - 6, 34 + i * size, "end", "orange", i);
            for (let a = 0; a < n; a++) {
                for (let b = 0; b <= a; b++) g.box(margin + b * size, 22 + a * size, size - gap, size - gap, "blue", 0.06 + 0.94 * Math.min(1, 2 * r.p[a * n + b]));
                if (a < n - 1) g.box(margin + (a + 1) * size, 22 + a * size, (n - 1 - a) * size, size - gap, "faint", 0.1);
            }
            g.path([[margin - 1, 21 + i * size], [margin + (i + 1) * size, 21 + i * size], [margin + (i + 1) * size, 21 + (i + 1) * size], [margin - 1, 21 + (i + 1) * size], [margin - 1, 21 + i * size]], "orange");
            const top = Math.max(...r.row); // the row again, as bars below their keys
            r.row.forEach((v, j) => g.box(margin + j * size, under + 66 - 58 * v / top, size - gap, 58 * v / top, "orange"));
            g.line(margin, under + 66, margin + n * size, under + 66, "faint");
            g.text(margin, under + 86, "start", "faint", `weights of query ${i}, up to ${top.toFixed(2)}`);
        },
        say: (r, x) => [
            ["pairs of query and key", x.n * (x.n + 1) / 2],
            ["multiply-adds of all queries", x.n * (x.n + 1) * x.d],
            [`query ${x.query} spreads over`, `${r.spread.toFixed(1)} of ${x.query + 1} keys`],
            ["its weights add up to", r.row.reduce((sum, v) => sum + v, 0).toFixed(4)],
        ],
        point: (at, r, x) => ({ query: Math.max(0, Math.min(x.n - 1, Math.floor((at.y - 22) / cell(at.width, x.n)))) }),
    });
})();
