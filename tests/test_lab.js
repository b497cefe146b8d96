// The figures of book/lab in node, for tests/test_lab.sh: the numbers at many settings against files of the program `msa`.
//
//     node tests/test_lab.js MODULE inputs DIR    writes the tensors that figures compute with, as .npy
//     node tests/test_lab.js MODULE says          what every figure says as it is shown first: NAME, a tab, pairs as JSON
//     node tests/test_lab.js MODULE CHECK FILE... a check below: TAP's words without numbers, a line each
"use strict";
const fs = require("fs"), path = require("path");
const [, , module_, what, ...files] = process.argv;
require("../book/lab/lab.js");
for (const file of fs.readdirSync(path.join(__dirname, "../book/lab")).filter(f => /^[0-9].*\.js$/.test(f))) require("../book/lab/" + file);

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
    },
    says() {
        for (const [name, f] of Object.entries(lab.figures)) {
            const x = lab.settings(f);
            console.log(`${name}\t${JSON.stringify(f.say(lab.compute(f, x), x).map(pair => pair.map(String)))}`);
        }
    },
    // FILE: a directory of `msa forward` with these blocks
    choose(dir, block, k) {
        const ids = read(`${dir}/ids.npy`), scores = read(`${dir}/scores.npy`), blocks = scores.length / 96;
        let ok = ids.length === 96 * k;
        for (let query = 0; query < 96; query++) {
            const r = at("05_choose", { query, k: Number(k), block });
            ok = ok && same(r.kept, ids.slice(query * k, (query + 1) * k)) && same(r.row, scores.slice(query * blocks, query * blocks + r.row.length));
        }
        check(ok, `blocks of ${block}, k = ${k}: scores and choice of all queries are those of msa forward`);
    },
    // FILE: a table of `msa cost --csv`
    cost(csv, groups, d_index, block, k) {
        const [, ...rows] = fs.readFileSync(csv, "utf8").trim().split("\n").map(line => line.split(","));
        const columns = lab.figures["07_cost"].columns, curve = at("07_cost", { groups, d_index, block, k: Number(k) }).curve;
        const ok = rows.length === curve.length && rows.every((row, v) => columns.every((name, c) => printed(row[c + 1], curve[v][name])));
        check(ok, `${groups} groups, index ${d_index} wide, ${k} blocks of ${block}: the whole curve is that of msa cost`);
    },
};
lab.load(fs.readFileSync(module_)).then(() => checks[what](...files));
