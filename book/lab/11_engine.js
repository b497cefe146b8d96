// Chapter 11: a recorded run, turn by turn: who wrote which score, and whether the thread at work can know of it.
"use strict";
(() => {
    const threads = 128, warps = threads / 32;
    const warp = thread => Math.floor(thread / 32);
    // The columns of 11_engine.c. A turn: what a thread does until another one comes, or until it learns something.
    const turns = run => {
        const all = [];
        for (const [thread, score, write, line, stamp, ...clock] of run.accesses) {
            const last = all[all.length - 1];
            if (last && last.thread === thread && last.clock.every((count, w) => count === clock[w])) last.does.push({ score, write, line });
            else all.push({ thread, stamp, clock, does: [{ score, write, line }] });
        }
        return all;
    };
    const runs = lab.recordings["11_engine"].map(run => ({ ...run, turns: turns(run) }));
    // race.cpp's ordered(): who knows of more releases than the stamp comes after it.
    const knows = (turn, by) => by.thread === turn.thread || turn.clock[warp(by.thread)] > by.stamp;

    lab.figure("11_engine", {
        title: "A recorded run, turn by turn: what the thread at work knows of who wrote each score",
        note: "A thread knows of a write if it knows of more releases of the writer's warp than that warp had made when it wrote. Barriers tell.",
        beside: true,
        controls: {
            run: { label: "the kernel", options: Object.fromEntries(runs.map((run, a) => [a, run.title])), value: "3" },
            turn: { label: "turn", min: 1, max: x => runs[x.run].turns.length, value: runs[3].turns.length, step: true },
        },
        compute(c, x) {
            const { turns, report } = runs[x.run], now = turns[x.turn - 1], author = Array(threads), latest = Array(warps);
            let reads = []; // what this turn reads, and who had written it
            for (const turn of turns.slice(0, x.turn)) {
                latest[warp(turn.thread)] = turn.clock;
                for (const { score, write } of turn.does) {
                    if (turn === now && !write) reads.push({ score, by: author[score] });
                    if (write) author[score] = turn;
                }
            }
            const race = reads.filter(({ by }) => !by || !knows(now, by));
            return { now, author, latest, reads, race, last: x.turn === turns.length, report: x.turn === turns.length ? report : "" };
        },
        draw(g, r) {
            const left = 54, cell = (g.width - left - 4) / 32, high = Math.min(24, 1.6 * cell), table = 4 * (high + 5) + 62, column = (g.width - left - 4) / warps;
            g.height = table + 4 * 22 + 6;
            g.legend(14, [["known", "green"], ["not known", "orange"], ["not written", "pale"]]);
            for (let t = 0; t < threads; t++) {
                const x = left + t % 32 * cell, y = 28 + warp(t) * (high + 5), by = r.author[t];
                if (t % 32 === 0) g.text(0, y + high - 4, "start", "ink", `${t}–${t + 31}`);
                g.box(x + 0.5, y, cell - 1, high, by ? knows(r.now, by) ? "green" : "orange" : "pale");
                if (r.now.does.some(({ score }) => score === t)) g.path([[x, y - 1.5], [x + cell, y - 1.5], [x + cell, y + high + 1.5], [x, y + high + 1.5], [x, y - 1.5]], "ink", 2);
            }
            g.text(0, table - 22, "start", "faint", "releases that each warp knows of");
            for (let w = 0; w < warps; w++) {
                g.text(left + (w + 0.5) * column, table - 2, "middle", "faint", `of ${w}`);
                g.text(0, table + 20 + 22 * w, "start", w === warp(r.now.thread) ? "orange" : "ink", `warp ${w}`);
                for (let of = 0; of < warps; of++)
                    g.text(left + (of + 0.5) * column, table + 20 + 22 * w, "middle", w === warp(r.now.thread) ? "orange" : "ink", r.latest[w] ? r.latest[w][of] : "–");
            }
        },
        say(r, x) {
            const did = r.now.does.map(({ score, write }) => `${write ? "writes" : "reads"} ${score}`);
            const told = r.reads.filter(({ by }) => by && by.thread !== r.now.thread).flatMap(({ score, by }) => {
                const w = warp(by.thread), count = r.now.clock[w];
                return [[`who wrote score ${score}`, `thread ${by.thread}, release ${by.stamp}`],
                    [`thread ${r.now.thread} knows of warp ${w}`, `${count}: ${count > by.stamp ? "more, so it comes after" : "not more, a race"}`]];
            });
            return [
                ["at work", `thread ${r.now.thread} of warp ${warp(r.now.thread)}`],
                [`line ${[...new Set(r.now.does.map(d => d.line))].join(", ")}`, did.join(", ")],
                ...told,
                ...r.reads.filter(({ by }) => !by).map(({ score }) => [`who wrote score ${score}`, "nobody yet"]),
                ["the engine", r.report ? r.report.replace(/ \(.*/, "").replaceAll("book/examples/", "") : r.last ? "no report: the run is over" : "goes on"],
            ];
        },
    });
})();
