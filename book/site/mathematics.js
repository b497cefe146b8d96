// Moves listings to the left margin (they may come from the depth of a loop), gives headings their levels, and renders the formulas of the pages named on the command line with KaTeX, at build time: the reader needs no
// JavaScript, and a formula that is wrong fails the build. Usage: node mathematics.js PAGE.html ...
"use strict";
const fs = require("fs");
const katex = require("/usr/share/nodejs/katex");
const plain = s => s.replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&quot;/g, '"').replace(/&#39;/g, "'").replace(/&amp;/g, "&");
let formulas = 0, failed = 0;
for (const file of process.argv.slice(2)) {
    const page = fs.readFileSync(file, "utf8");
    // listings and sources may hold \( too: leave them alone
    const parts = page.split(/(<pre[\s\S]*?<\/pre>|<div class="fragment">[\s\S]*?<\/div><!-- fragment -->|<script[\s\S]*?<\/script>)/);
    for (let i = 1; i < parts.length; i += 2) {
        const spaces = [...parts[i].matchAll(/<div class="line">(?:<a [^>]*><\/a>)?(?:<span class="[a-z]*">)?( *)(?=[^ ])/g)]
            .filter(m => !parts[i].startsWith("</div>", m.index + m[0].length)).map(m => m[1].length);
        const margin = Math.min(...spaces);
        if (spaces.length && margin > 0)
            parts[i] = parts[i].replace(/(<div class="line">(?:<a [^>]*><\/a>)?(?:<span class="[a-z]*">)?)( +)/g, (_, tag, pad) => tag + pad.slice(Math.min(margin, pad.length)));
    }
    const render = (tex, display) => {
        formulas++;
        try {
            return katex.renderToString(plain(tex).trim(), { displayMode: display, throwOnError: true, strict: "error" });
        } catch (error) {
            failed++;
            console.error(`${file}: ${error.message}`);
            return "";
        }
    };
    const done = parts.map((part, i) => i % 2 ? part : part
        .replace(/\\\[([\s\S]*?)\\\]/g, (_, tex) => render(tex, true))
        .replace(/\\\(([\s\S]*?)\\\)/g, (_, tex) => render(tex, false))).join("");
    // doxygen's title is no heading, and its sections are first ones: one h1 a page, the others below it
    const levels = done.replace(/<(\/?)h([1-5])\b/g, (_, end, n) => `<${end}h${Number(n) + 1}`)
        .replace(/<div class="title">([\s\S]*?)<\/div>/, '<h1 class="title">$1</h1>');
    if (levels !== page) fs.writeFileSync(file, levels);
}
console.log(`  katex: ${formulas} formulas`);
process.exit(failed ? 1 : 0);
