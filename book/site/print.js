// One page of all: node print.js SITE LABEL ... > SITE/print.html, in the order of the labels. Ids get their page's
// name in front, links between the book's pages become links within it, others lead to the site.
"use strict";
const fs = require("fs"), path = require("path");
const [site, ...labels] = process.argv.slice(2);
const sections = labels.map(label => {
    const page = fs.readFileSync(path.join(site, label + ".html"), "utf8");
    const title = page.match(/<h1 class="title">([\s\S]*?)<\/h1>/)[1].trim();
    const begin = page.indexOf('<div class="textblock">') + 23;
    const end = page.indexOf("</div><!-- contents -->");
    let body = page.slice(begin, end).replace(/<div class="turn">[\s\S]*$/, "").replace(/(<\/div>\s*)$/, "").replace(/<details\b/g, "<details open");
    body = body.replace(/\b(id|name)="([^"]+)"/g, (_, what, id) => `${what}="${label}-${id}"`)
        .replace(/href="([^"#:]*)(?:#([^"]*))?"/g, (whole, file, anchor) => {
            const to = file === "" ? label : file.replace(/\.html$/, "");
            return labels.includes(to) ? `href="#${anchor ? to + "-" + anchor : to}"` : whole;
        })
        .replace(/<(\/?)h([2-5])\b/g, (_, close, n) => `<${close}h${Number(n) + 1}`);
    return { label, title, body };
});
console.log(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>Sparse Attention: all chapters on one page</title>
<link href="katex/katex.min.css" rel="stylesheet"/>
<link href="print.css" rel="stylesheet"/>
</head>
<body>
<h1>Sparse attention, from the first dot product</h1>
<ol class="contents">
${sections.map(s => `<li><a href="#${s.label}">${s.title}</a></li>`).join("\n")}
</ol>
${sections.map(s => `<section id="${s.label}">\n<h2>${s.title}</h2>\n<div>${s.body}</div>\n</section>`).join("\n")}
</body>
</html>`);
