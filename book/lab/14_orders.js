// Chapter 14: bytes and products of three loop orders, for a chunk of M3's queries at the end of a text.
"use strict";
(() => {
    const names = ["Q-outer", "union", "KV-outer"], colours = ["faint", "blue", "orange"];
    const kinds = ["random", "hot", "local", "structured"]; // selection_kind, in its order
    const tensor = 9.9e14, memory = 4.8e12; // operations and bytes a second of an H200, from its data sheet

    lab.figure("14_orders", {
        title: "Bytes and useful products of three loop orders",
        controls: {
            kind: { label: "selection", options: lab.list(kinds), value: "random" },
            k: { label: "blocks kept, k", min: 4, max: 32, value: 16 },
            block: { label: "tokens in a block", options: lab.list([64, 128, 256]), value: "128" },
            queries: { label: "queries of the chunk", options: lab.list([256, 1024, 4096, 16384]), value: "16384" },
            tokens: { label: "tokens of the text", options: { 17: "128K", 18: "256K", 19: "512K", 20: "1M" }, value: "20" },
        },
        compute(c, x, msa) {
            const queries = Number(x.queries), groups = 4;
            const shape = c.shape({ n_q: queries, n_kv: 2 ** x.tokens, n_heads: 64, n_kv_heads: groups, d_head: 128, d_index: 128, block: Number(x.block), topk: x.k });
            const ids = c.room(4 * groups * queries * x.k), counts = c.room(8 * 8);
            msa.lab_select(shape, kinds.indexOf(x.kind), 1, ids);
            msa.lab_orders(shape, ids, counts);
            const n = c.doubles(counts, 8), useful = n[6];
            return {
                orders: names.map((_, a) => ({ bytes: n[2 * a], share: useful / n[2 * a + 1], intensity: 2 * useful / n[2 * a], ms: 1e3 * Math.max(2 * n[2 * a + 1] / tensor, n[2 * a] / memory) })),
                union8: n[7] / (groups * queries / 8),
            };
        },
        draw(g, r) {
            const most = Math.max(...r.orders.map(o => o.bytes)), half = (g.width - 36) / 2, at = 24 + half;
            const bar = (left, y, full, part, colour, words) => {
                g.box(left, y, full, 20, "pale");
                g.box(left, y, full * part, 20, colour);
                g.text(left, y - 6, "start", "ink", words);
            };
            g.height = 24 + 3 * 56;
            g.text(8, 16, "start", "faint", "bytes read and written");
            g.text(at, 16, "start", "faint", "useful products");
            r.orders.forEach((o, a) => {
                bar(8, 50 + 56 * a, half, o.bytes / most, colours[a], `${names[a]}: ${(o.bytes / 1e9).toFixed(1)} GB`);
                bar(at, 50 + 56 * a, half, o.share, colours[a], `${(100 * o.share).toFixed(0)} %`);
            });
        },
        say: (r, x) => [
            ["union of 8 neighbours", `${r.union8.toFixed(1)} of up to ${8 * x.k} blocks`],
            ["fewest bytes", names[r.orders.indexOf(r.orders.reduce((a, b) => a.bytes <= b.bytes ? a : b))]],
            ...r.orders.map((o, a) => [`${names[a]}, useful operations`, `${o.intensity.toFixed(0)} a byte`]),
            ...r.orders.map((o, a) => [`${names[a]}, estimate for an H200`, `${o.ms.toFixed(1)} ms`]),
        ],
    });
})();
