// Figures that compute: the reference of ref/*.c, compiled to WebAssembly, behind controls. A figure is a declaration in a
// file of its own (NAME.js beside the still figure NAME.svg):
//
//     lab.figure(NAME, { title, controls, compute(c, x), draw(g, r, x), say(r, x), point(at, r, x) })
//
// controls   each { label, value } and either { min, max, show, step } of a slider or { options } of a list; max may be a
//            function of the settings before it, show says a value, step: buttons for one less and one more
// compute    the numbers at the settings x, by calls of the reference; without them nothing is drawn
// draw       a picture of them with the pen g, which is as wide as the page allows
// say        what they are, in words: [name, value] pairs
// point      settings that a place in the picture stands for, at = { x, y, width }; may be left out
// beside     the still figure shows something else, and stays; the title and a note then tell what this one shows
//
// Where the page cannot run it, the still figure stays. Node reads the same files to test them.
"use strict";
globalThis.lab = (() => {
    const figures = {};
    let msa; // what the module exports

    // ---- Calls. What a round of them allocates is freed behind it. ----
    const rounds = f => {
        const held = [];
        const keep = p => {
            if (!p) throw Error("no memory");
            held.push(p);
            return p;
        };
        const words = p => {
            const bytes = new Uint8Array(msa.memory.buffer, p);
            return String.fromCharCode(...bytes.subarray(0, bytes.indexOf(0)));
        };
        const c = {
            must: status => { if (status) throw Error(words(msa.msa_strerror(status))); },
            room: bytes => keep(msa.malloc(bytes)),
            noise: (n, seed) => keep(msa.lab_noise(n, seed)),
            shape: s => keep(msa.lab_shape(s.n_q, s.n_kv ?? s.n_q, s.n_heads ?? 1, s.n_kv_heads ?? 1, s.d_head ?? 1, s.d_index ?? 1, s.block, s.topk)),
            work: s => c.room(msa.msa_workspace(0, s)),
            put: array => {
                const p = c.room(array.byteLength);
                new array.constructor(msa.memory.buffer, p, array.length).set(array);
                return p;
            },
            floats: (p, n) => new Float32Array(msa.memory.buffer, p, n).slice(),
            ints: (p, n) => new Int32Array(msa.memory.buffer, p, n).slice(),
            doubles: (p, n) => new Float64Array(msa.memory.buffer, p, n).slice(),
            // msa_index() of one sequence: scores [Hkv,T,B] and ids [Hkv,T,k]
            index: (s, qi, ki) => {
                const shape = c.shape(s), groups = s.n_kv_heads ?? 1, rows = groups * s.n_q, blocks = Math.ceil((s.n_kv ?? s.n_q) / s.block);
                const scores = c.room(4 * rows * blocks), ids = c.room(4 * rows * s.topk);
                c.must(msa.msa_index(shape, qi, ki, scores, ids, 0, c.work(shape)));
                return { scores: c.floats(scores, rows * blocks), ids: c.ints(ids, rows * s.topk), blocks };
            },
        };
        try {
            return f(c, msa);
        } finally {
            held.forEach(p => msa.free(p));
        }
    };
    const settings = figure => Object.fromEntries(Object.entries(figure.controls).map(([id, c]) => [id, c.value]));
    const compute = (figure, x) => rounds(c => figure.compute(c, x, msa));

    // ---- The pen ----
    const escape = s => String(s).replace(/[&<>"]/g, c => `&#${c.charCodeAt(0)};`);
    const pen = width => {
        const out = [], n = v => Math.round(10 * v) / 10;
        return {
            width,
            height : 0,
            box : (x, y, w, h, colour, opacity = 1) => out.push(`<rect x="${n(x)}" y="${n(y)}" width="${
                n(Math.max(w, 0))}" height="${n(Math.max(h, 0))}" style="fill:var(--lab-${
                colour})" fill-opacity="${n(10 * opacity) / 10}"/>`),
            line : (x, y, x2, y2, colour, w = 1) => out.push(`<line x1="${n(x)}" y1="${n(y)}" x2="${
                n(x2)}" y2="${n(y2)}" style="stroke:var(--lab-${colour})" stroke-width="${w}"/>`),
            path : (points, colour, w = 2) => out.push(`<polyline fill="none" points="${
                points.map(p => p.map(n)).join(" ")}" style="stroke:var(--lab-${colour})" stroke-width="${
                w}"/>`),
            dot : (x, y, r, colour) =>
                out.push(`<circle cx="${n(x)}" cy="${n(y)}" r="${r}" style="fill:var(--lab-${colour})"/>`),
            text : (x, y, anchor, colour, words) => out.push(`<text x="${n(x)}" y="${n(y)}" text-anchor="${
                anchor}" style="fill:var(--lab-${colour})">${escape(words)}</text>`),
            letters : (x, y, step, colour, words) => out.push(`<text x="${
                    [...words].map((_, i) => n(x + (i + 0.5) * step)).join(" ")}" y="${
                n(y)}" text-anchor="middle" xml:space="preserve" style="fill:var(--lab-${
                colour});font-family:var(--font-family-monospace);font-size:13px">${escape(words)}</text>`),
            legend(y, pairs) { // what the colours mean: [words, colour] pairs
                let x = 8;
                for (const [words, colour] of pairs) {
                    this.box(x, y - 11, 12, 12, colour);
                    this.text(x + 16, y, "start", "ink", words);
                    x += 28 + 7.4 * words.length;
                }
            },
            html : () => out.join(""),
        };
    };

    // ---- The page ----
    const make = (tag, attributes = {}, ...inside) => {
        const e = document.createElement(tag);
        for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
        e.append(...inside);
        return e;
    };
    const most = (c, x) => typeof c.max === "function" ? c.max(x) : c.max;
    const control = (id, c) => {
        const input = c.options
            ? make("select", { name: id }, ...Object.entries(c.options).map(([value, label]) => make("option", { value }, label)))
            : make("input", { name: id, type: "range", min: c.min });
        const number = make("output");
        const label = make("label", {}, make("span", {}, c.label), input, ...(c.options ? [] : [number]));
        const step = (words, by) => {
            const button = make("button", { type: "button", "aria-label": `${c.label}: ${words}` }, by < 0 ? "‹" : "›");
            button.addEventListener("click", () => {
                input.value = Number(input.value) + by;
                input.dispatchEvent(new Event("input", { bubbles: true }));
            });
            return button;
        };
        return { input, number, row: c.step ? make("div", { class: "lab-step" }, label, step("one less", -1), step("one more", 1)) : label };
    };
    const live = (name, figure) => {
        const still = document.querySelector(`img[src$="${name}.svg"]`);
        if (!still) return;
        const controls = Object.entries(figure.controls).map(([id, c]) => [id, c, control(id, c)]);
        const picture = make("div", { class: "lab-picture", role: "img" }), says = make("dl", { "aria-live": "polite" });
        const reset = make("button", { type: "button" }, figure.beside ? "As at first" : "As in the text");
        const root = make("div", { class: "lab", role: "group", "aria-label": figure.title }, ...(figure.beside ? [make("p", {}, make("b", {}, figure.title)), make("p", {}, figure.note)] : []), picture,
            make("form", {}, ...controls.map(([, , e]) => e.row), reset), says);
        let x, r;
        const draw = () => {
            const g = pen(Math.max(picture.clientWidth, 280));
            figure.draw(g, r, x);
            picture.innerHTML = `<svg viewBox="0 0 ${g.width} ${g.height}" width="${g.width}" height="${g.height}" aria-hidden="true">${g.html()}</svg>`;
        };
        const refresh = () => {
            const begin = performance.now();
            x = {};
            for (const [id, c, e] of controls) {
                if (!c.options) e.input.max = most(c, x); // the browser moves what lies above it
                x[id] = c.options ? e.input.value : Number(e.input.value);
            }
            r = compute(figure, x);
            for (const [, c, e] of controls) {
                e.number.textContent = c.show ? c.show(x[e.input.name], x) : x[e.input.name];
                if (!c.options) e.input.setAttribute("aria-valuetext", e.number.textContent);
            }
            draw();
            const said = figure.say(r, x);
            says.replaceChildren(...said.map(([term, value]) => make("div", String(value).length > 40 ? { class: "wide" } : {}, make("dt", {}, term), make("dd", {}, value))));
            picture.setAttribute("aria-label", `${figure.title}. ${said.map(pair => pair.join(": ")).join("; ")}`);
            root.dataset.ms = Math.round(performance.now() - begin);
        };
        const set = to => {
            const all = { ...x, ...to };
            for (const [id, c, e] of controls) {
                if (!c.options) e.input.max = most(c, all);
                e.input.value = all[id];
            }
            refresh();
        };
        root.addEventListener("input", refresh);
        root.querySelector("form").addEventListener("submit", event => event.preventDefault());
        reset.addEventListener("click", () => set(settings(figure)));
        if (figure.point) {
            const at = event => {
                const box = picture.getBoundingClientRect();
                set(figure.point({ x: event.clientX - box.left, y: event.clientY - box.top, width: box.width }, r, x));
            };
            picture.addEventListener("pointerdown", at);
            picture.addEventListener("pointermove", event => { if (event.buttons) at(event); });
        }
        let place = still.parentElement; // below the still figure or, beside it, below what is said of it
        if (figure.beside) {
            let next = place.nextElementSibling;
            while (next && next.textContent.trim() === "") next = next.nextElementSibling;
            if (next?.firstElementChild?.tagName === "EM") place = next;
        }
        place.after(root);
        try {
            set(settings(figure));
        } catch (error) { // the still figure stays
            root.remove();
            throw error;
        }
        still.parentElement.hidden = !figure.beside;
        new ResizeObserver(() => requestAnimationFrame(draw)).observe(root);
    };
    const start = () => { if (msa) for (const name in figures) if (!figures[name].shown) figures[name].shown = true, live(name, figures[name]); };

    // Nothing of a system is there: what the C library would ask of one fails.
    const imports = { wasi_snapshot_preview1: new Proxy({}, { get: () => () => 52 }) };
    return {
        figures, settings, compute,
        recordings: {}, // what programs beside the declarations recorded, by the figure's name
        list: values => Object.fromEntries(values.map(v => [v, v])), // options that are their own labels
        get msa() { return msa; },
        figure: (name, figure) => { figures[name] = figure; if (globalThis.document) start(); },
        load: async bytes => {
            if (typeof bytes === "string") bytes = Uint8Array.from(atob(bytes), c => c.charCodeAt(0));
            msa = (await WebAssembly.instantiate(bytes, imports)).instance.exports;
            msa._initialize();
            if (globalThis.document) start();
        },
    };
})();
