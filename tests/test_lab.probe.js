// The last script of tests/test_lab.sh's page of all figures: moves every control, and leaves what it finds as TAP's words in
// #probe, before the page is loaded. SAYS holds what the figures say in node.
"use strict";
const lines = [], expect = (ok, name) => lines.push(`${ok ? "ok" : "not ok"} ${name}`);
const errors = [];
for (const kind of ["error", "unhandledrejection"]) addEventListener(kind, event => errors.push(event.message ?? event.reason));
const name_of = image => image.src.replace(/.*\/|\.svg$/g, "");
const change = (input, value) => { input.value = value; input.dispatchEvent(new Event("input", { bubbles: true })); };
const pace = () => { // this machine's milliseconds for what takes 10 where it is quick
    const begin = performance.now();
    let sum = 0;
    for (let i = 0; i < 1e7; i++) sum += Math.sqrt(i);
    return Math.max(10, performance.now() - begin + 0 * sum);
};
const stills = [...document.images], roots = [...document.querySelectorAll("div.lab")];
expect(roots.length === stills.length, `${roots.length} of ${stills.length} figures are live`);
expect(stills.every(s => s.parentElement.hidden === !lab.figures[name_of(s)].beside), "still ones are hidden unless they show something else");
const limit = 10 * pace();
roots.forEach((root, i) => {
    const name = name_of(stills[i]);
    const inputs = [...root.querySelectorAll("input, select")], said = () => [...root.querySelectorAll("dl div")].map(d => [d.children[0].textContent, d.children[1].textContent]);
    expect(JSON.stringify(said()) === JSON.stringify(SAYS[name]), `${name} says what it says in node`);
    expect(inputs.length > 0 && inputs.every(e => e.labels.length === 1 && e.labels[0].textContent.trim().length > 1 && e.tabIndex === 0 && e.getBoundingClientRect().height >= 24), `${name}: ${inputs.length} native controls, labelled, that a keyboard and a thumb reach`);
    root.querySelector("form > button").click(); // now that the page has its width
    const first = root.querySelector(".lab-picture").innerHTML;
    let slowest = 0, moved = 0;
    for (const e of inputs) {
        const before = e.value, text = root.textContent + root.querySelector(".lab-picture").innerHTML;
        const values = e.options ? [...e.options].map(o => o.value) : [e.min, Math.round((Number(e.min) + Number(e.max)) / 2), e.max];
        let changed = false;
        for (const value of values) {
            let best = Infinity;
            for (let i = 0; i < 5 && best >= limit; i++) { change(e, value); best = Math.min(best, Number(root.dataset.ms)); }
            slowest = Math.max(slowest, best);
            changed = changed || root.textContent + root.querySelector(".lab-picture").innerHTML !== text;
            if (/NaN|undefined|Infinity/.test(root.innerHTML)) errors.push(`${name}: no number at ${e.name} = ${value}`);
        }
        change(e, before);
        moved += changed;
    }
    expect(moved === inputs.length, `${name}: ${moved} of ${inputs.length} controls change something`);
    expect(slowest < limit, `${name}: answers within ${limit <= 100 ? "100 ms" : "100 ms, in a quick machine's time"}`);
    const picture = root.querySelector(".lab-picture"), box = picture.getBoundingClientRect(), held = { clientX: box.left + box.width / 3, clientY: box.top + box.height / 3, buttons: 1, bubbles: true };
    picture.dispatchEvent(new PointerEvent("pointerdown", held));
    root.querySelector("form > button").click();
    expect(picture.innerHTML === first && JSON.stringify(said()) === JSON.stringify(SAYS[name]), `${name}: a button brings back what the text shows`);
    expect(picture.getAttribute("aria-label").length > 40, `${name}: a text for who does not see it`);
});
expect(errors.length === 0, `no error ${errors.join("; ")}`);
expect(document.documentElement.scrollWidth <= document.documentElement.clientWidth, "nothing sticks out at the side");
document.getElementById("probe").textContent = "\n" + lines.join("\n") + "\n";
