// Chapter 9: a text that the shipped model has read, a row a block of it, and what a query's group chose there.
"use strict";
(() => {
    const { text, groups, block, layers } = lab.recordings["09_watch"];
    const n = text.length, blocks = Math.ceil(n / block), kinds = ["random", "hot", "local"]; // selection_kind, in its order
    const bits = new DataView(new ArrayBuffer(4));
    // Rows [T,B] of a group, of which the recording has what each query sees.
    const rows = (hex, group, unseen) => {
        const all = new Float32Array(n * blocks).fill(unseen);
        let at = 0;
        for (let g = 0; g <= group; g++)
            for (let i = 0; i < n; i++)
                for (let b = 0; b <= Math.floor(i / block); b++, at += 8) {
                    if (g < group) continue;
                    bits.setUint32(0, parseInt(hex.slice(at, at + 8), 16));
                    all[i * blocks + b] = bits.getFloat32(0);
                }
        return all;
    };
    const decoded = {};
    const rows_of = (layer, group) => decoded[[layer, group]] ??= { scores: rows(layers[layer].scores, group, -Infinity), mass: rows(layers[layer].mass, group, 0) };
    const place = width => ({ left: 30, step: Math.min(9.5, (width - 30 - 52) / block), top: 34, high: 19 });

    lab.figure("09_watch", {
        title: "What each letter looks at: the shipped model on a text that it has never seen",
        note: "A row is a block of the text. Choose a letter by pointing or by the slider; bars are the true weights of its blocks.",
        beside: true,
        text, block, blocks,
        controls: {
            layer: { label: "layer", options: lab.list(layers.map((_, l) => l)), value: "0" },
            group: { label: "group", options: lab.list([...Array(groups).keys()]), value: "0" },
            kind: { label: "chosen", options: { index: "by the index", local: "the nearest", random: "at random" }, value: "index" },
            k: { label: "blocks kept, k", min: 1, max: 16, value: 8 },
            query: { label: "letter", min: 0, max: n - 1, value: 700, step: true },
        },
        compute(c, x, msa) {
            const { scores, mass } = rows_of(x.layer, Number(x.group)), ids = c.room(4 * n * x.k), per_query = c.room(16 * n);
            const shape = c.shape({ n_q: n, block, topk: x.k });
            if (x.kind === "index") c.must(msa.msa_topk(shape, c.put(scores), ids, c.work(shape)));
            else msa.lab_select(shape, kinds.indexOf(x.kind), 1, ids);
            if (!msa.lab_recall(shape, c.put(mass), ids, per_query)) throw Error("no memory");
            const recall = c.doubles(per_query, 2 * n), first = x.k * block; // earlier ones keep every block
            const mean = values => values.length ? values.reduce((a, b) => a + b) / values.length : 1;
            const row = mass.slice(x.query * blocks, x.query * blocks + Math.floor(x.query / block) + 1), all = c.ints(ids, n * x.k);
            const order = [...row.keys()].sort((a, b) => row[b] - row[a] || a - b);
            return {
                row, ids: all, chosen: [...all.slice(x.query * x.k, (x.query + 1) * x.k)].filter(b => b >= 0), best: order.slice(0, x.k),
                recall: [recall[x.query], recall[n + x.query]], mean: [mean(recall.slice(first, n)), mean(recall.slice(n + first))],
            };
        },
        draw(g, r, x) {
            const { left, step, top, high } = place(g.width), end = left + block * step, most = Math.max(...r.row);
            g.height = top + blocks * high + 4;
            g.legend(14, g.width < 500 ? [["both", "green"], ["chosen", "blue"], ["among the best", "orange"]] : [["chosen, and among the best", "green"], ["chosen", "blue"], ["among the best, not chosen", "orange"]]);
            for (let b = 0; b < blocks; b++) {
                const y = top + b * high, chosen = r.chosen.includes(b), best = r.best.includes(b);
                const colour = chosen ? best ? "green" : "blue" : best ? "orange" : null;
                if (colour) g.box(left, y, block * step, high - 1, colour, 0.24);
                if (colour) g.box(left - 4, y, 3, high - 1, colour);
                g.text(left - 8, y + 14, "end", "faint", b);
                const words = text.slice(b * block, (b + 1) * block).replaceAll("\n", "↵"), seen = Math.max(0, Math.min(words.length, x.query + 1 - b * block));
                if (seen) g.letters(left, y + 14, step, "ink", words.slice(0, seen));
                if (seen < words.length) g.letters(left + seen * step, y + 14, step, "faint", words.slice(seen));
                if (b < r.row.length) g.box(end + 6, y + 4, (g.width - end - 10) * r.row[b] / most, high - 9, colour ?? "faint");
            }
            const at = left + x.query % block * step, y = top + Math.floor(x.query / block) * high;
            g.path([[at, y], [at + step, y], [at + step, y + high - 1], [at, y + high - 1], [at, y]], "ink", 2);
        },
        say(r, x) {
            const two = values => values.map(v => v.toFixed(2)).join(" and "), letter = text[x.query];
            const weight = r.chosen.reduce((sum, b) => sum + r.row[b], 0);
            return [
                ["letter", letter === "\n" ? "end of line" : `“${letter}”`],
                ["weight in the chosen blocks", `${(100 * Math.min(1, weight)).toFixed(1)} %`],
                ["its block and score recall", two(r.recall)],
                ["mean of those that leave some out", two(r.mean)],
            ];
        },
        point(at) {
            const { left, step, top, high } = place(at.width), clamp = (v, most) => Math.max(0, Math.min(most, Math.floor(v)));
            return { query: Math.min(n - 1, clamp((at.y - top) / high, blocks - 1) * block + clamp((at.x - left) / step, block - 1)) };
        },
    });
})();
