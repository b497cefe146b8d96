#!/usr/bin/env node
// check_pages SITE PAGE.html ...: what a keyboard, a screen reader and a small screen need of the book's pages: a
// language, a title, one first heading and no level left out, a text for each image and each link, no id twice,
// MathML beside every rendered formula, no star left of Markdown; and colours of at least 4.5:1 in book.css, light and dark.
"use strict";
const fs = require("fs"), path = require("path");
const [site, ...pages] = process.argv.slice(2);
let bad = 0;
const complain = text => { console.error(text); bad++; };
for (const file of pages) {
    const html = fs.readFileSync(file, "utf8").replace(/<!--[\s\S]*?-->|<script[\s\S]*?<\/script>/g, "");
    const say = text => complain(`${path.basename(file)}: ${text}`);
    if (!/<html[^>]* lang="en"/.test(html)) say("no language");
    if (!/<title>[^<]+<\/title>/.test(html)) say("no title");
    if (!/<meta name="viewport"/.test(html)) say("no viewport");
    const levels = [...html.matchAll(/<h([1-6])\b/g)].map(m => Number(m[1]));
    if (levels.filter(n => n === 1).length !== 1 || levels[0] !== 1) say(`expected one h1 and it first, found ${levels.join(" ")}`);
    levels.forEach((n, i) => { if (i && n > levels[i - 1] + 1) say(`h${n} follows h${levels[i - 1]}`); });
    const ids = new Set();
    for (const [, id] of html.matchAll(/\sid="([^"]+)"/g)) {
        if (ids.has(id)) say(`the id ${id} twice`);
        ids.add(id);
    }
    for (const [tag] of html.matchAll(/<img\b[^>]*>/g))
        if (!/\balt="[^"]{10,}"/.test(tag)) say(`an image without a description: ${tag}`);
    for (const [, attributes, inside] of html.matchAll(/<a\b([^>]*\bhref=[^>]*)>([\s\S]*?)<\/a>/g))
        if (!/\balt="[^"]+"|aria-label=/.test(attributes + inside) && /^(here|click here|link|\s*)$/i.test(inside.replace(/<[^>]*>/g, ""))) say(`a link without words: ${attributes}`);
    for (const [, words] of html.matchAll(/<p\s*>(\*(?!\*).{0,40})/g)) say(`a star that should have been emphasis: ${words}`);
    const count = what => html.split(what).length - 1;
    if (count('class="katex-html" aria-hidden="true"') !== count("<math ")) say("a formula without MathML");
}
// the colours that book.css names: --x-background is what the others of its block are read on
const channel = c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const light = hex => [1, 3, 5].map(i => channel(parseInt(hex.slice(i, i + 2), 16))).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const contrast = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
let colours = 0;
for (const [, block] of fs.readFileSync(path.join(site, "book.css"), "utf8").replace(/\/\*[\s\S]*?\*\//g, "").matchAll(/\{([^{}]*--fragment-background[^{}]*)\}/g)) {
    const all = [...block.matchAll(/(--[a-z-]+): *(#[0-9a-fA-F]{6})/g)];
    const value = Object.fromEntries(all.map(m => [m[1], m[2]]));
    for (const [, name, hex] of all) {
        if (name.endsWith("-background") || name.endsWith("-background-color")) continue;
        const on = name.startsWith("--fragment-") ? "--fragment-background" : "--page-background-color";
        colours++;
        if (contrast(hex, value[on]) < 4.5) complain(`book.css: ${name} ${hex} on ${value[on]}: contrast ${contrast(hex, value[on]).toFixed(1)}, expected 4.5`);
    }
}
if (colours === 0) complain("book.css: no colours found");
console.log(`  pages: ${pages.length} for the keyboard and the screen reader, ${colours} colours, ${bad} bad`);
process.exit(bad ? 1 : 0);
