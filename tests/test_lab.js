// The figures of book/lab in node, for tests/test_lab.sh: the numbers at many settings against files of the program `msa`.
//
//     node tests/test_lab.js MODULE inputs DIR    writes the tensors that figures compute with, as .npy
//     node tests/test_lab.js MODULE says          what every figure says as it is shown first: NAME, a tab, pairs as JSON
//     node tests/test_lab.js MODULE CHECK FILE... a check below: TAP's words without numbers, a line each
"use strict";
const fs = require("fs"), path = require("path");
const [, , module_, what, ...files] = process.argv;
require("../book/lab/lab.js");
for (const file of fs.readdirSync(path.dirname(module_)).filter(f => /\.data\.js$/.test(f))) require(path.resolve(path.dirname(module_), file));
const declared = path.join(__dirname, "../book/lab/");
for (const file of fs.readdirSync(declared).filter(f => /\.js$/.test(f)).sort().reverse())
    if (!fs.existsSync(declared + file.replace(".js", ".c")) || lab.recordings[file.replace(".js", "")]) require(declared + file); // as embed.sh

const write = (file, array, ...shape) => {
    const header = `{'descr': '${array instanceof Int32Array ? "<i4" : "<f4"}', 'fortran_order': False, 'shape': (${shape.join(", ")},), }`;
    const words = header.padEnd(117) + "\n";
    fs.writeFileSync(file, Buffer.concat([Buffer.from([0x93, 78, 85, 77, 80, 89, 1, 0, 118, 0]), Buffer.from(words), Buffer.from(array.buffer)]));
};
const read = file => {
    const all = fs.readFileSync(file), at = 10 + all.readUInt16LE(8), body = new Uint8Array(all.subarray(at)).buffer;
    return all.subarray(10, at).includes("<i4") ? new Int32Array(body) : new Float32Array(body);
};
const same = (a, b) => a.length === b.length && [...a].every((v, i) => Object.is(v, b[i]));
const near = (a, b) => Math.abs(a - b) <= 2 ** -22 * Math.max(Math.abs(a), Math.abs(b), 2 ** -10); // exp and log of two libraries, rounded to float32
const at = (name, changes) => {
    const figure = lab.figures[name], x = { ...lab.settings(figure), ...changes };
    return lab.compute(figure, x);
};
const check = (ok, words) => console.log(`${ok ? "ok" : "not ok"} ${words}`);
// What a file prints of a number: all of it, or so many digits.
const printed = (text, value) => Number(text) === value || Number(value.toPrecision(6)) === Number(text);

const checks = {
    inputs(dir) {
        const noise = (n, seed) => { const p = lab.msa.lab_noise(n, seed); return new Float32Array(lab.msa.memory.buffer, p, n).slice(); };
        write(`${dir}/qi5.npy`, noise(96 * 16, 21), 96, 1, 16);
        write(`${dir}/ki5.npy`, noise(96 * 16, 22), 96, 16);
        write(`${dir}/one5.npy`, new Float32Array(96), 96, 1, 1);
        write(`${dir}/q1.npy`, noise(24 * 32, 5), 24, 1, 32);
        write(`${dir}/k1.npy`, noise(24 * 32, 6), 24, 1, 32);
        write(`${dir}/v1.npy`, new Float32Array(24 * 32).map((_, a) => Math.floor(a / 32) === a % 32 ? 1 : 0), 24, 1, 32); // whose outputs are the weights
        const index = noise(96 * 8, 32);
        write(`${dir}/q6.npy`, noise(96 * 2 * 8, 31), 96, 2, 8);
        write(`${dir}/ki6.npy`, index, 96, 8);
        write(`${dir}/k6.npy`, Float32Array.from({ length: 96 * 2 * 8 }, (_, a) => index[Math.floor(a / 16) * 8 + a % 8]), 96, 2, 8);
        write(`${dir}/v6.npy`, noise(96 * 2 * 8, 33), 96, 2, 8);
        for (const kind of ["random", "local", "structured"])
            write(`${dir}/${kind}6.npy`, at("06_sparse", {kind}).ids, 2, 96, 4);
        write(`${dir}/q3.npy`, new Float32Array(48).fill(1), 48, 1, 1);
        write(`${dir}/k3.npy`, noise(48, 9), 48, 1, 1);
    },
    says() {
        for (const [name, f] of Object.entries(lab.figures)) {
            const x = lab.settings(f);
            console.log(`${name}\t${JSON.stringify(f.say(lab.compute(f, x), x).map(pair => pair.map(String)))}`);
        }
    },
    // FILE: book.css, whose background the colours lie on, and lab.css
    colours(...styles) {
        const blocks = file => [...fs.readFileSync(file, "utf8").matchAll(/\n(html(?:\.dark-mode)?) \{([^}]*)\}/g)]
            .map(([, name, inside]) => [name, Object.fromEntries([...inside.matchAll(/(--[a-z-]+): *(#[0-9a-f]{6})/g)].map(m => [m[1], m[2]]))]);
        const [page, lab_] = styles.map(file => Object.fromEntries(blocks(file)));
        const channel = c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
        const light = hex => [0.2126, 0.7152, 0.0722].reduce((sum, part, i) => sum + part * channel(parseInt(hex.slice(1 + 2 * i, 3 + 2 * i), 16)), 0.05);
        for (const name of ["html", "html.dark-mode"]) {
            const background = light(page[name]["--page-background-color"]), read = Object.entries(lab_[name]).filter(([colour]) => colour !== "--lab-pale");
            const contrast = read.map(([, hex]) => Math.max(light(hex), background) / Math.min(light(hex), background));
            check(read.length >= 4 && Math.min(...contrast) >= 4.5, `${name}: ${read.length} colours of 4.5:1 or more`);
        }
    },
    // FILE: a directory of `msa dense`
    weights(dir) {
        const p = at("01_attention", { d: "32" }).p, o = read(`${dir}/o.npy`);
        check(p.length === 24 * 24 && p.every((v, a) => near(v, o[Math.floor(a / 24) * 32 + a % 24])), "the weights of all queries are those of msa dense");
    },
    online(dir) {
        const r = at("03_online"), lse = read(`${dir}/lse.npy`);
        check(lse.length === 48 && r.lse.every((v, j) => near(v, lse[j])), "the LSE of the keys so far is that of msa dense");
        const merged = Array.from({ length: 47 }, (_, a) => at("03_online", { cut: a + 1 }).pieces);
        check(merged.every(([a, b]) => Math.abs(Math.log(Math.exp(a) + Math.exp(b)) - lse[47]) < 1e-6), "... and so is that of two pieces merged, wherever it is cut");
    },
    // FILE: a directory of `msa forward` with these blocks
    scores(dir, block) {
        const scores = read(`${dir}/scores.npy`), blocks = scores.length / 96;
        let ok = blocks === Math.ceil(96 / block);
        for (let query = 0; query < 96; query++) {
            const line = at("04_index", { query, block }).line;
            ok = ok && same(line, scores.slice(query * blocks, query * blocks + line.length));
        }
        check(ok, `blocks of ${block}: the best visible token is the score that msa forward writes`);
    },
    choose(dir, block, k) {
        const ids = read(`${dir}/ids.npy`), scores = read(`${dir}/scores.npy`), blocks = scores.length / 96;
        let ok = ids.length === 96 * k;
        for (let query = 0; query < 96; query++) {
            const r = at("05_choose", { query, k: Number(k), block });
            ok = ok && same(r.kept, ids.slice(query * k, (query + 1) * k)) && same(r.row, scores.slice(query * blocks, query * blocks + r.row.length));
        }
        check(ok, `blocks of ${block}, k = ${k}: scores and choice of all queries are those of msa forward`);
    },
    apart() {
        const kept = at("05_choose").kept;
        check(kept.some((b, a) => a > 0 && b > kept[a - 1] + 1), "the blocks that are shown first are no window");
    },
    // FILE: directories of `msa forward` and of `msa dense`
    sparse(forward, dense, kind, block, k) {
        const r = at("06_sparse", { kind, block, k: Number(k) });
        const close = (name, ours) => [...read(name)].every((v, a) => near(v, ours[a])) && ours.length > 0;
        const ok = same(r.ids, read(`${forward}/ids.npy`)) && close(`${forward}/o.npy`, r.sparse.o) && close(`${forward}/lse.npy`, r.sparse.lse) &&
            close(`${dense}/o.npy`, r.dense.o) && close(`${dense}/lse.npy`, r.dense.lse);
        check(ok, `${k} blocks of ${block}, chosen by ${kind}: ids, outputs and LSE are those of msa forward and msa dense`);
    },
    // FILE: what the program of chapter 14 prints, whose last table this is
    orders(out) {
        const lines = fs.readFileSync(out, "utf8").split("\n"),
              first = lines.findIndex(line => /^M3's sizes/.test(line)) + 3;
        for (const [a, kind] of ["random", "hot", "local", "structured"].entries()) {
            const {orders, union8} = at("14_orders", {kind}),
                           rows = lines.slice(first + 3 * a, first + 3 * a + 3);
            const right = rows.every((line, order) => {
                const [gb, share] = line.split(/(?:Q-outer|union|KV-outer) +/)[1].split(/\s+/),
                           o = orders[order];
                return (o.bytes / 1e9).toFixed(1) === gb && (100 * o.share).toFixed(0) === share &&
                       line.includes(` ${o.intensity.toFixed(0)} `) && line.endsWith(o.ms.toFixed(1));
            });
            check(right && rows[0].startsWith(kind) && rows[0].includes(` ${union8.toFixed(1)} `),
                  `${kind}: unions, bytes, products and estimates are those of the chapter's table`);
        }
    },
    // FILE: what the program of chapter 11 prints, with the engine's reports
    engine(out) {
        const words = fs.readFileSync(out, "utf8").replace(/\s+/g, " "), figure = lab.figures["11_engine"];
        const all = run => Array.from({ length: figure.controls.turn.max({ run }) }, (_, a) => at("11_engine", { run, turn: a + 1 }));
        for (const [run, title] of Object.entries(figure.controls.run.options)) {
            const turns = all(run), last = turns.pop();
            check(turns.every(r => r.race.length === 0) && (last.race.length > 0) === (last.report !== "") && (last.report === "") === title.startsWith("right"),
                `${title}: by the clocks ${last.report ? "the last turn alone is a race" : "there is no race"}, as the engine says`);
            if (last.report)
                check(words.includes(last.report.replace(/\s+/g, " ")),
                      "... in the words that the chapter prints");
        }
    },
    // FILE: what the program of chapter 9 prints, a table and maps
    watch(out) {
        const lines = fs.readFileSync(out, "utf8").split("\n"), {blocks, block} = lab.figures["09_watch"];
        for (const line of lines.filter(l => /^ +\d +\d +\d\./.test(l))) {
            const [layer, group, ...table] = line.trim().split(/ +/),
                                 means = kind =>
                                     at("09_watch", {layer, group, kind}).mean.map(v => v.toFixed(2)).join();
            check(means("index") === table.slice(0, 2).join() && means("local") === table.slice(4).join(),
                  `layer ${layer}, group ${
                      group}: recall of the index and of the nearest blocks is the table's`);
        }
        for (const layer of ["0", "2"]) {
            const from = lines.findIndex(l => l.startsWith(`layer ${layer}  `)) + 1,
                  ids = [ "0", "1" ].map(group => at("09_watch", {layer, group}).ids);
            const map = (row, group) =>
                Array
                    .from({length : blocks},
                          (_, b) => {
                              const count = ids[group]
                                                .slice(row * block * 8, (row + 1) * block * 8)
                                                .filter(id => id === b)
                                                .length;
                              return " .:o#"[Math.floor((count * 4 + block - 1) / block)];
                          })
                    .join("");
            const same_rows = Array.from(
                {length : blocks - 8},
                (_, a) => lines[from + a] ===
                          `queries ${String(a + 8).padStart(2)} ${map(a + 8, 0)}    ${map(a + 8, 1)}`);
            check(same_rows.every(Boolean), `layer ${layer}: the maps of both groups are the program's`);
        }
    },
    // FILE: a table of `msa cost --csv`
    cost(csv, groups, d_index, block, k) {
        const [[, ...head], ...rows] = fs.readFileSync(csv, "utf8").trim().split("\n").map(line => line.split(","));
        const columns = lab.figures["07_cost"].columns, curve = at("07_cost", { groups, d_index, block, k: Number(k) }).curve;
        const ok = head.map(name => name.replace(/_(1byte|8bit)_index$/, "_8")).join() === columns.join() && rows.length === curve.length && rows.every((row, v) => columns.every((name, c) => printed(row[c + 1], curve[v][name])));
        check(ok, `${groups} groups, index ${d_index} wide, ${k} blocks of ${block}: the whole curve is that of msa cost`);
    },
};
lab.load(fs.readFileSync(module_)).then(() => checks[what](...files));
