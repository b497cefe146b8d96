// Links in the listings of the book's pages go to what a name means there, or nowhere: doxygen links every word that is a
// name somewhere, such as a local `scale`. Usage: node link_listings.js TAGS [--count] PAGE.html ...
//
// filter_page.sh has put the listing's file before it. A link stays if its target is in that file or in one that it
// includes, and if the word stands where such a thing can stand: a function before "(", a type before a name, a member
// behind "." or "->" (one that a single struct in reach has), a macro or an enumerator in capitals. With --count pages are
// left as they are, and wrong links end the program with status 1.
"use strict";
const fs = require("fs"), path = require("path");
let [tags, ...pages] = process.argv.slice(2);
const count = pages[0] === "--count";
if (count) pages = pages.slice(1);

// ---- What doxygen knows: of each target the kind and the files ------------------------------
const entity = new Map(), structFiles = new Map(), members = [], homes = new Map();
const field = (text, name) => (text.match(new RegExp(`<${name}>([^<]*)</${name}>`)) || [])[1];
const compounds = [...fs.readFileSync(tags, "utf8").matchAll(/<compound kind="(\w+)"[^>]*>([\s\S]*?)<\/compound>/g)];
const fileOf = body => path.relative("", path.join(field(body, "path") || "", field(body, "name")));
for (const [, kind, body] of compounds)
    if (kind === "file")
        for (const [, name] of body.matchAll(/<class kind="\w+">([^<]*)<\/class>/g))
            structFiles.set(name, [...(structFiles.get(name) || []), fileOf(body)]);
for (const [, kind, body] of compounds) {
    const files = kind === "file" ? [fileOf(body)] : structFiles.get(field(body, "name")) || [];
    const head = body.split("<member")[0];
    if (kind !== "file") entity.set(field(head, "filename"), { kind: "type", files });
    for (const [, what, marks, member] of body.matchAll(/<member kind="(\w+)"([^>]*)>([\s\S]*?)<\/member>/g)) {
        const inStruct = kind === "struct" || kind === "union";
        const one = { kind: inStruct ? "member" : what, files, name: field(member, "name"), alone: marks.includes("static") };
        entity.set(`${field(member, "anchorfile")}#${field(member, "anchor")}`, one);
        if (inStruct) members.push(one);
        if (what === "function") homes.set(one.name, (homes.get(one.name) || new Set()).add(files[0]));
    }
}

// ---- What a listing's file can see --------------------------------------------------------------------------------
const seen = new Map();
function reach(file) { // itself and all that it includes
    if (seen.has(file)) return seen.get(file);
    const found = new Set([file]);
    seen.set(file, found);
    for (const [, name] of fs.readFileSync(file, "utf8").matchAll(/^ *# *include "([^"]+)"/gm)) {
        const at = [path.join(path.dirname(file), name), path.join("ref", name), name].find(fs.existsSync);
        if (at) for (const one of reach(path.normalize(at))) found.add(one);
    }
    return found;
}
function isMeant(target, name, before, after, inReach) {
    const near = one => one.files.length === 1 && inReach.has(one.files[0]); // structs of one name share a page, whichever is meant
    if (!target || !near(target)) return false;
    switch (target.kind) {
    case "function": return /^\(/.test(after);
    case "type": case "typedef": case "enumeration": return /^ \*{0,2}[A-Za-z_]/.test(after) || /^( \*+)?\)/.test(after) && /\($|\b(const|struct) $/.test(before);
    case "member": return /(\.|->)$/.test(before) && members.filter(m => m.name === name && near(m)).length === 1;
    case "define": case "enumvalue": return /^[A-Z][A-Z0-9_]*$/.test(name);
    case "variable": return /^(thread|block)(Idx|Dim)$|^gridDim$/.test(name);
    default: return false;
    }
}

// ---- The pages ----------------------------------------------------------------------------------------------------
const plain = html => html.replace(/<[^>]*>/g, "").replace(/&gt;/g, ">").replace(/&lt;/g, "<").replace(/&amp;/g, "&");
let kept = 0, wrong = 0;
for (const page of pages) {
    const html = fs.readFileSync(page, "utf8");
    const done = html.replace(/(?:<!-- listing (\S+) -->)?(\s*(?:<p>|<\/p>)?\s*)<div class="fragment">[\s\S]*?<\/div><!-- fragment -->/g, (whole, file) => {
        const inReach = file ? reach(file) : new Set();
        return whole.replace(/<a class="code[^"]*" href="([^"]*)"[^>]*>([\s\S]*?)<\/a>/g, (link, href, text, at, all) => {
            const line = all.lastIndexOf('<div class="line">', at), end = all.indexOf("</div>", at);
            const good = isMeant(entity.get(href), plain(text), plain(all.slice(line, at)), plain(all.slice(at + link.length, end)), inReach);
            if (good) kept++; else wrong++;
            return good ? link : text;
        });
    });
    // In a sentence only a function that is private to its file can be taken for another's.
    const text = done.replace(/<a class="el" href="([^"]*)"[^>]*>(\w+\(\))<\/a>/g, (link, href, name) => {
        const target = entity.get(href), good = !(target && target.alone && homes.get(target.name).size > 1);
        if (!good) wrong++;
        return good ? link : name;
    });
    if (!count && text !== html) fs.writeFileSync(page, text);
}
console.log(`  listings: ${kept} links${count ? `, ${wrong} wrong` : `, ${wrong} to other things of the same name taken away`}`);
process.exit(count && wrong ? 1 : 0);
