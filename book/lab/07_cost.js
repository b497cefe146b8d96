// Chapter 7: the cost model of msa_cost() for any number of tokens, blocks and heads.
"use strict";
(() => {
    const power = v => Math.round(2 ** (11 + v / 4)), top = 36, heads = 64; // 2K to 1M tokens, four steps for each doubling
    const short = n => n >= 2 ** 20 ? `${+(n / 2 ** 20).toFixed(1)}M` : `${+(n / 1024).toFixed(1)}K`;
    const columns = ["flop_gqa", "flop_msa", "flop_ratio", "index_share", "bytes_gqa", "bytes_msa", "bytes_ratio", "bytes_ratio_8",
        "flop_ratio_8", "flop_settle", "flop_ratio_exact8", "bytes_settle", "bytes_ratio_exact8"]; // as in msa_cost_row

    lab.figure("07_cost", {
        title: "Operations of one layer's attention in a causal prefill",
        columns,
        controls: {
            n: { label: "tokens, N", min: 0, max: top, value: top, show: v => short(power(v)) },
            k: { label: "blocks kept, k", min: 1, max: 64, value: 16 },
            block: { label: "tokens in a block", options: lab.list([32, 64, 128, 256]), value: "128" },
            groups: { label: "groups, of 64 heads", options: lab.list([1, 2, 4, 8, 16, 64]), value: "4" },
            d_index: { label: "index width", options: lab.list([32, 64, 128]), value: "128" },
        },
        compute(c, x, msa) {
            const s = c.shape({ n_q: 1, n_heads: heads, n_kv_heads: Number(x.groups), d_head: 128, d_index: Number(x.d_index), block: Number(x.block), topk: x.k });
            const p = c.room(8 * columns.length);
            const row = n => {
                c.must(msa.lab_cost(s, n, p));
                return Object.fromEntries([...c.doubles(p, columns.length)].map((v, i) => [columns[i], v]));
            };
            let low = 0, high = 2 ** 40; // the last length that does not pay, the first that does
            if (row(high).flop_ratio <= 1) low = high = Infinity;
            while (high - low > 1) {
                const middle = Math.floor((low + high) / 2);
                if (row(middle).flop_ratio > 1) high = middle; else low = middle;
            }
            return { here: row(power(x.n)), curve: Array.from({ length: top + 1 }, (_, v) => row(power(v))), pays: high, ceiling: row(2 ** 40).flop_ratio };
        },
        draw(g, r, x) {
            const left = 44, right = 12, base = 290, sx = (g.width - left - right) / top, low = 30, sy = (base - 40) / 25;
            const y = flop => base - sy * (Math.log2(Math.max(flop, 1)) - low);
            g.height = 318;
            for (let v = 0; v <= top; v += 4) {
                g.line(left + v * sx, 34, left + v * sx, base, "pale");
                if (g.width > 500 || v % 8 === 4) g.text(left + v * sx, base + 20, v === top ? "end" : "middle", "ink", short(power(v)));
            }
            for (let e = 30; e <= 54; e += 6) g.text(left - 6, y(2 ** e) + 4, "end", "faint", `2^${e}`);
            const curve = (name, colour, w, of) => g.path(r.curve.map((row, v) => [left + v * sx, y(of(row))]), colour, w);
            curve("index", "orange", 1.5, row => row.flop_msa * row.index_share);
            curve("blocks", "blue", 1.5, row => row.flop_msa * (1 - row.index_share));
            curve("dense", "ink", 2.5, row => row.flop_gqa);
            curve("MSA", "green", 2.5, row => row.flop_msa);
            const at = left + x.n * sx;
            g.line(at, 34, at, base, "faint", 1.5);
            g.dot(at, y(r.here.flop_gqa), 4.5, "ink");
            g.dot(at, y(r.here.flop_msa), 4.5, "green");
            g.legend(20, [["dense", "ink"], ["MSA", "green"], ["index", "orange"], [`${x.k} blocks`, "blue"]]);
        },
        say: (r, x) => [
            ["tokens", power(x.n)],
            ["dense over MSA, operations", r.here.flop_ratio.toFixed(2)],
            ["the index's share of MSA", `${(100 * r.here.index_share).toFixed(0)} %`],
            ["dense over MSA, bytes to decode", r.here.bytes_ratio.toFixed(2)],
            ["the same, 1-byte index keys", r.here.bytes_ratio_8.toFixed(2)],
            ["cheaper than dense from", Number.isFinite(r.pays) ? `${r.pays} tokens` : "never"],
            ["ratio without end", r.ceiling.toFixed(1)],
        ],
        point: at => ({ n: Math.max(0, Math.min(top, Math.round((at.x - 44) / ((at.width - 56) / top)))) }),
    });
})();
