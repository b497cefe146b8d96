// Chapter 3: the running maximum and sum of a row, in three orders, and two pieces merged by their LSE.
"use strict";
(() => {
    const n = 48;
    const order = { come: "as they come", up: "smallest first", down: "largest first" };

    lab.figure("03_online", {
        title: "Running maximum and sum of an online softmax",
        controls: {
            so_far: { label: "keys so far", min: 1, max: n, value: n },
            order: { label: "keys arrive", options: order, value: "come" },
            times: { label: "logits times", options: lab.list([1, 2, 4]), value: "1" },
            cut: { label: "pieces, cut at key", min: 1, max: n - 1, value: 20 },
        },
        compute(c, x, msa) {
            const logits = c.floats(c.noise(n, 9), n).map(v => v * x.times);
            if (x.order !== "come") logits.sort((a, b) => x.order === "up" ? a - b : b - a);
            // An index of width 1 and queries of 1: the scores are the logits, and query j sees keys 0 .. j.
            const ones = c.put(new Float32Array(n).fill(1)), keys = c.put(logits);
            const sums = (first, many, queries) => {
                const lse = c.room(4 * queries);
                c.must(msa.msa_index_lse(c.shape({ n_q: queries, n_kv: many, block: 1, topk: 1 }), ones, keys + 4 * first, 0, lse));
                return c.floats(lse, queries);
            };
            const lse = sums(0, n, n), pieces = [sums(0, x.cut, 1)[0], sums(x.cut, n - x.cut, 1)[0]];
            const max = logits.map((_, j) => Math.max(...logits.slice(0, j + 1)));
            const rises = [...max].map((m, j) => j === 0 || m > max[j - 1]);
            return { logits, lse, max, rises, sum: lse.map((v, j) => Math.exp(v - max[j])), pieces };
        },
        draw(g, r, x) {
            const step = (g.width - 20) / n, most = Math.max(...r.logits), least = Math.min(...r.logits), top = Math.max(...r.sum);
            const y = v => 20 + 130 * (most - v) / (most - least), low = v => 300 - 120 * v / top;
            g.height = 330;
            for (let j = 0; j < x.so_far; j++) {
                const left = 10 + j * step;
                if (r.rises[j]) g.line(left, 14, left, 300, "pale", 2);
                g.dot(left + step / 2, y(r.logits[j]), 3, r.rises[j] ? "orange" : "faint");
            }
            const seen = [...Array(x.so_far).keys()];
            g.path(seen.flatMap(j => [[10 + j * step, y(r.max[j])], [10 + (j + 1) * step, y(r.max[j])]]), "orange");
            g.path(seen.map(j => [10 + (j + 0.5) * step, low(r.sum[j])]), "blue");
            g.line(10, 300, g.width - 10, 300, "faint");
            g.line(10 + x.cut * step, 292, 10 + x.cut * step, 308, "ink", 2);
            g.text(Math.max(40, Math.min(g.width - 40, 10 + x.cut * step)), 324, "middle", "ink", "cut");
            g.text(g.width - 10, low(r.sum[n - 1]) - 10, "end", "blue", "sum ℓ");
            g.text(g.width - 10, Math.max(14, y(r.max[n - 1]) - 8), "end", "orange", "maximum m");
        },
        say(r, x) {
            const j = x.so_far - 1, expected = Array.from({ length: x.so_far }, (_, i) => 1 / (i + 1)).reduce((a, b) => a + b);
            const total = Math.log(r.pieces.map(v => Math.exp(v - r.max[n - 1])).reduce((a, b) => a + b)) + r.max[n - 1];
            const share = v => `${(100 * Math.exp(v - total)).toFixed(1)} %`;
            return [
                ["maximum m", r.max[j].toFixed(4)],
                ["sum ℓ", r.sum[j].toFixed(4)],
                ["LSE = m + ln ℓ", r.lse[j].toFixed(4)],
                ["the maximum rose", `${r.rises.slice(0, x.so_far).filter(Boolean).length} times`],
                ["in random order expected", expected.toFixed(1)],
                [`keys 0 to ${x.cut - 1}: LSE, weight`, `${r.pieces[0].toFixed(4)}, ${share(r.pieces[0])}`],
                [`keys ${x.cut} to ${n - 1}: LSE, weight`, `${r.pieces[1].toFixed(4)}, ${share(r.pieces[1])}`],
                ["both pieces merged: LSE", total.toFixed(4)],
            ];
        },
        point: at => ({ so_far: Math.max(1, Math.min(n, Math.ceil((at.x - 10) / ((at.width - 20) / n)))) }),
    });
})();
