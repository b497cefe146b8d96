// Chapter 4: a block is as good as its best visible token; a mean instead, and the mask behind the pool.
"use strict";
(() => {
    const { n, d } = lab.blocks;

    lab.figure("04_index", {
        title: "Index scores of one query: tokens, and their blocks",
        controls: {
            query: lab.blocks.query,
            block: lab.blocks.block,
            pool: { label: "a block's score", options: { max: "its maximum", mean: "its mean" }, value: "max" },
            mask: { label: "the mask acts", options: { before: "before the pool", after: "after the pool" }, value: "before" },
        },
        compute(c, x) {
            const r = lab.blocks.scores(c, x), block = Number(x.block);
            // The same query at the end of the text sees all tokens.
            const all = c.index({ n_q: 1, n_kv: n, d_index: d, block: 1, topk: 1 }, r.qi, r.ki).scores;
            r.future = x.mask === "after" ? all.slice(x.query + 1, Math.min((r.local + 1) * block, n)) : [];
            const seen = [...r.token, ...r.future];
            r.line = Array.from(r.row, (m, b) => {
                const tokens = seen.slice(b * block, (b + 1) * block);
                return x.pool === "max" ? Math.max(...tokens) : tokens.reduce((sum, s) => sum + s, 0) / tokens.length;
            });
            return r;
        },
        draw: (g, r, x) => lab.blocks.draw(g, r, x, r.line, [], r.future),
        say: (r, x) => {
            const best = r.line.indexOf(Math.max(...r.line)), local = r.line[r.local];
            return [
                ["best block, and its score", `${best}: ${r.line[best].toFixed(3)}`],
                ["local block, and its score", `${r.local}: ${local.toFixed(3)}`],
                ["visible tokens of the local block", `${x.query % x.block + 1} of ${Math.min(x.block, n - r.local * x.block)}`],
                ["the local score comes from", x.pool === "max" && [...r.future].includes(local) ? "the future" : x.mask === "after" && x.pool === "mean" && r.future.length ? "past and future" : "the past"],
            ];
        },
        point: lab.blocks.point,
    });
})();
