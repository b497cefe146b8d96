// What chapters 4 and 5 share, as book/figures/blocks.h: the index scores of one query, drawn as bars in their blocks.
"use strict";
lab.blocks = (() => {
    const n = 96, d = 16;
    return {
        n, d,
        query: { label: "query at position", min: 0, max: n - 1, value: 86 },
        block: { label: "tokens in a block", options: lab.list([4, 6, 8, 12, 16, 24, 32]), value: "12" },
        // Scores of the tokens and the blocks that the query sees, and what they came from.
        scores(c, x, k = 1, times = 1) {
            const shape = { n_q: n, d_index: d, block: Number(x.block), topk: k };
            const ki = c.noise(n * d, 22), qi = c.put(c.floats(c.noise(n * d, 21), n * d).map(q => q * times));
            const { scores, ids, blocks } = c.index(shape, qi, ki);
            const token = c.index({ ...shape, block: 1, topk: 1 }, qi, ki).scores.slice(x.query * n, x.query * n + x.query + 1);
            const local = Math.floor(x.query / x.block), row = scores.slice(x.query * blocks, x.query * blocks + local + 1);
            return { shape, scores, blocks, token, row, local, ids: [...ids.slice(x.query * k, (x.query + 1) * k)], qi: qi + 4 * x.query * d, ki };
        },
        // `line` holds each block's score, `shaded` the blocks that are kept; tokens behind the query are `future`, if any are to be seen.
        draw(g, r, x, line, shaded = [], future = []) {
            const block = Number(x.block), step = (g.width - 16) / n, zero = 130, tokens = [...r.token, ...future];
            const tall = 110 / Math.max(...tokens.map(Math.abs), 1e-30);
            g.height = 268;
            for (let b = 0; b < r.blocks; b++) {
                const left = 8 + b * block * step, w = Math.min(block, n - b * block) * step, kept = shaded.includes(b);
                if (kept) g.box(left + 1, 8, w - 2, 238, "orange", 0.16);
                for (let j = b * block; j < Math.min((b + 1) * block, n); j++) {
                    const at = 8 + j * step, y = tokens[j] * tall, best = j < tokens.length && tokens[j] === line[b];
                    if (j > x.query && best) g.box(at + 0.5, y > 0 ? zero - y : zero, step - 1, Math.abs(y), "orange");
                    else if (j > x.query) g.box(at + 0.5, zero - 3, step - 1, 6, "faint", 0.4);
                    else g.box(at + 0.5, y > 0 ? zero - y : zero, step - 1, Math.abs(y) + 0.5, best ? "orange" : "blue", best ? 1 : 0.5);
                }
                if (b <= r.local) g.line(left + 1, zero - line[b] * tall, left + w - 1, zero - line[b] * tall, "orange", 2);
                if (b) g.line(left, 8, left, 248, "pale");
                if (w >= 16) g.text(left + w / 2, 262, "middle", kept ? "orange" : "ink", w > 40 && b === r.local ? "local" : b);
            }
            g.line(8, zero, g.width - 8, zero, "faint");
        },
        point: at => ({ query: Math.max(0, Math.min(n - 1, Math.floor((at.x - 8) / ((at.width - 16) / n)))) }),
    };
})();
