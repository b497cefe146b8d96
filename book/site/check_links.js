#!/usr/bin/env node
// check_links SITE: every local link of every page leads to a file and, with #, to an anchor in it; no page
// or style sheet loads anything from elsewhere; every image has a text.
"use strict";
const fs = require("fs"), path = require("path");
const site = process.argv[2];
const files = fs.readdirSync(site, { recursive: false }).filter(f => f.endsWith(".html"));
const pages = new Map(files.map(f => [f, fs.readFileSync(path.join(site, f), "utf8")]));
const anchors = new Map();
const anchors_of = f => {
    if (!anchors.has(f)) anchors.set(f, new Set([...pages.get(f).matchAll(/\b(?:id|name)="([^"]+)"/g)].map(m => m[1])));
    return anchors.get(f);
};
let links = 0, bad = 0;
const complain = text => { console.error(text); bad++; };
for (const [file, page] of pages) {
    const html = page.replace(/<!--[\s\S]*?-->/g, "");
    for (const [tag, name] of html.matchAll(/<(a|img|script|link|iframe|source|object)\b[^>]*>/g)) {
        const url = (tag.match(/\b(?:href|src|data)="([^"]*)"/) || [])[1];
        if (name === "img" && !/\balt="[^"]+"/.test(tag)) complain(`${file}: an image without a text: ${tag}`);
        if (url === undefined || url === "" || url.startsWith("javascript:") || url.startsWith("data:")) continue;
        if (/^([a-z]+:)?\/\//.test(url)) {
            if (name !== "a") complain(`${file}: loads ${url}`);
            continue;
        }
        links++;
        const [target, anchor] = decodeURI(url.replace(/&amp;/g, "&")).split("#");
        const to = target === "" ? file : path.normalize(target);
        if (!fs.existsSync(path.join(site, to))) complain(`${file}: ${url}: no such file`);
        else if (!fs.statSync(path.join(site, to)).size) complain(`${file}: ${url}: an empty file`);
        else if (anchor && pages.has(to) && !anchors_of(to).has(anchor)) complain(`${file}: ${url}: no such anchor`);
    }
}
const styles = [...fs.readdirSync(site), ...fs.readdirSync(path.join(site, "katex")).map(f => "katex/" + f)].filter(f => f.endsWith(".css"));
for (const file of styles)
    for (const [, url] of fs.readFileSync(path.join(site, file), "utf8").replace(/\/\*[\s\S]*?\*\//g, "").matchAll(/url\(["']?([^"')]+)/g)) {
        if (url.startsWith("data:")) continue;
        if (/^([a-z]+:)?\/\//.test(url)) complain(`${file}: loads ${url}`);
        else if (!fs.existsSync(path.join(site, path.dirname(file), url))) complain(`${file}: url(${url}): no such file`);
    }
console.log(`  links: ${links} in ${pages.size} pages, ${bad} bad`);
process.exit(bad ? 1 : 0);
