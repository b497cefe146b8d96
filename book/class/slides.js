// The slides: node slides.js BOOK > slides.html. Two of each chapter, its question and its figure with the caption, in one
// file that needs no network; arrows or space turn, paper takes a slide a page.
"use strict";
const fs = require("fs"), path = require("path");
const katex = require("/usr/share/nodejs/katex");
const book = process.argv[2];

const escape = text => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const formula = (tex, display) => katex.renderToString(tex, { output: "mathml", displayMode: display, throwOnError: true });
// A paragraph of a chapter: formulas, code, emphasis and references are all that questions and captions have.
const inline = text => text.split(/(\$[^$]+\$|`[^`]+`)/).map(piece =>
    piece[0] === "$" ? formula(piece.slice(1, -1), false)
        : piece[0] === "`" ? `<code>${escape(piece.slice(1, -1))}</code>`
        : escape(piece).replace(/@ref ch0?(\d+b?)/g, "chapter $1").replace(/@ref \w+ &quot;([^&]*)&quot;/g, "$1")
            .replace(/\*\*([^*]+)\*\*/g, "<b>$1</b>").replace(/\*([^*]+)\*/g, "<em>$1</em>")).join("");

const chapters = fs.readdirSync(book).filter(name => /^\d\d.*_.*\.md$/.test(name)).sort().map(name => {
    const page = fs.readFileSync(path.join(book, name), "utf8");
    const title = page.match(/^# *(.*?) *\{#/)[1];
    const question = page.match(/^## The question\n\n([\s\S]*?)\n\n/m)[1].replace(/\n/g, " ");
    const figures = [...page.matchAll(/^!\[(.*)\]\(figures\/(.*\.svg)\)\n\n((?:.+\n)+)/gm)].map(([, alt, file, below]) => ({
        alt, svg: fs.readFileSync(path.join(book, "figures", file)).toString("base64"),
        caption: below.replace(/\n/g, " ").replace(/ *`make book-figures` draws it again\./, "").trim().replace(/^\*|\*$/g, ""),
    }));
    return { title, question, figures };
});
const slides = chapters.flatMap(c => [
    `<section><h2>${escape(c.title)}</h2><p class="question">${inline(c.question)}</p></section>`,
    ...c.figures.map(f => `<section><h3>${escape(c.title)}</h3><img src="data:image/svg+xml;base64,${f.svg}" alt="${f.alt.replace(/"/g, "&quot;")}"/>` +
        `<p>${inline(f.caption)}</p></section>`)]);
console.log(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>Sparse attention: slides</title>
<style>
body { margin: 0; background: #fff; color: #1b2733; font: 1.5rem/1.4 Helvetica, Arial, sans-serif; }
section { box-sizing: border-box; min-height: 100vh; padding: 4vh 6vw; display: flex; flex-direction: column; justify-content: center; scroll-snap-align: start; }
html { scroll-snap-type: y mandatory; }
h1, h2 { font-size: 2.6rem; line-height: 1.15; margin: 0 0 2vh; }
h3 { font-size: 1.1rem; margin: 0 0 2vh; color: #4a5a6a; font-weight: normal; }
img { display: block; width: 100%; max-height: 62vh; object-fit: contain; }
p { margin: 2vh 0 0; } .question { font-size: 1.9rem; } code { font-size: .9em; }
@page { size: 297mm 167mm; margin: 0; }
@media print { section { min-height: 0; height: 166mm; break-after: page; overflow: hidden; } img { max-height: 110mm; } body { font-size: 14pt; } }
</style>
</head>
<body>
<section><h1>Sparse attention, from the first dot product</h1><p>The questions and the figures of ${chapters.length} chapters. Arrows or space turn.</p></section>
${slides.join("\n")}
<script>
const all = [...document.querySelectorAll("section")];
const shown = () => all.reduce((best, s, i) => Math.abs(s.getBoundingClientRect().top) < Math.abs(all[best].getBoundingClientRect().top) ? i : best, 0);
document.addEventListener("keydown", event => {
    const turn = { ArrowRight: 1, ArrowDown: 1, PageDown: 1, " ": 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -1 }[event.key];
    if (!turn) return;
    event.preventDefault();
    all[Math.min(Math.max(shown() + turn, 0), all.length - 1)].scrollIntoView();
});
</script>
</body>
</html>`);
