// Chapter 5: the scores of a query and the blocks that it keeps, ranked by scores or by their exponentials.
"use strict";
(() => {
    const { n } = lab.blocks;
    // What softmax leaves of scores in float32: below -104 from the largest nothing.
    const exponentials = scores => scores.map(m => Math.fround(Math.exp(m - Math.max(...scores))));

    lab.figure("05_choose", {
        title: "Index scores of a query, and the blocks that it keeps",
        controls: {
            query: lab.blocks.query,
            k: { label: "blocks kept, k", min: 1, max: 12, value: 4 },
            block: lab.blocks.block,
            rank: { label: "ranked by", options: { score: "scores", exp: "exp in float32" }, value: "score" },
            times: { label: "scores times", options: lab.list([1, 8, 32, 128]), value: "1" },
        },
        compute(c, x, msa) {
            const r = lab.blocks.scores(c, x, x.k, x.times), weights = exponentials(r.row);
            r.kept = r.ids;
            if (x.rank === "exp") { // msa_topk() on other scores
                const all = r.scores.slice(), chosen = c.room(4 * n * x.k), s = c.shape(r.shape);
                all.set(weights, x.query * r.blocks);
                c.must(msa.msa_topk(s, c.put(all), chosen, c.work(s)));
                r.kept = [...c.ints(chosen, n * x.k).slice(x.query * x.k, (x.query + 1) * x.k)];
            }
            r.lost = weights.filter(w => w === 0).length;
            return r;
        },
        draw: (g, r, x) => lab.blocks.draw(g, r, x, r.row, r.kept),
        say: (r, x) => [
            ["blocks kept", r.kept.filter(b => b >= 0).join(" ")],
            ["local block", r.local],
            ["best score", Math.max(...r.row).toFixed(3)],
            ["exp in float32 is 0 for", `${r.lost} of ${r.row.length} blocks`],
            ...(x.rank === "exp" ? [["the scores choose", r.ids.filter(b => b >= 0).join(" ")]] : []),
        ],
        point: lab.blocks.point,
    });
})();
