# Draws one figure of the experiments as SVG from their tables: awk -v figure=NAME -f experiments.awk FILE.csv
# Figures: parity (a dot a model), retrieval (accuracy by distance), conversion (recall over the steps), cost (time by
# length).
BEGIN {
    FS = ","
    ink = "#1c2733"; faint = "#66717d"
    split("#1f6fb2 #b3560a #247a3f #7a3f8f #66717d #a01c3c", colour, " ")
    split("circle square diamond triangle circle square", shape, " ")
    width = 820; left = 70; right = width - 190; top = 50
}
NR == 1 { for (i = 1; i <= NF; i++) column[$i] = i; next }
NF > 1 {
    rows++
    for (name in column) value[rows, name] = $column[name]
    if (!(("arm" in column) && ($column["arm"] in seen))) { seen[$column["arm"]] = 1; arm[++arms] = $column["arm"] }
}
function text(x, y, anchor, fill, words) {
    body = body sprintf("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" fill=\"%s\">%s</text>\n", x, y, anchor, fill, words)
}
function line(x, y, x2, y2, stroke, w) {
    body = body sprintf("<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" stroke-width=\"%s\"/>\n", x, y, x2, y2, stroke, w)
}
function mark(x, y, kind, fill) {
    if (kind == "circle") body = body sprintf("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4.5\" fill=\"%s\"/>\n", x, y, fill)
    else if (kind == "square") body = body sprintf("<rect x=\"%.1f\" y=\"%.1f\" width=\"8\" height=\"8\" fill=\"%s\"/>\n", x - 4, y - 4, fill)
    else if (kind == "diamond") body = body sprintf("<path d=\"M%.1f %.1fl5.5 5.5l-5.5 5.5l-5.5 -5.5z\" fill=\"%s\"/>\n", x, y - 5.5, fill)
    else body = body sprintf("<path d=\"M%.1f %.1fl5.5 9h-11z\" fill=\"%s\"/>\n", x, y - 6, fill)
}
function finish(height, title) {
    printf "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"15\">\n<title>%s</title>\n<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n%s</svg>\n", width, height, width, height, title, width, height, body
}
function log10(x) { return log(x) / log(10) }
# A y axis from low to high, with `n` steps of lines, over top..bottom.
function axis(low, high, n, format, bottom,   i, y) {
    for (i = 0; i <= n; i++) {
        y = bottom - (bottom - top) * i / n
        line(left, y, right, y, "#dfe3e8", 1)
        text(left - 8, y + 5, "end", faint, sprintf(format, low + (high - low) * i / n))
    }
}
# Words at the right of a line's end; ends that are too near are moved down in turn.
function legend(nth, kind, fill, words,   y) {
    y = top + 10 + 26 * nth
    mark(right + 22, y - 5, kind, fill)
    text(right + 34, y, "start", ink, words)
}

function parity(   i, a, r, x, low, high, height, span) {
    low = 1e9; high = 0
    for (r = 1; r <= rows; r++) {
        if (value[r, "bits_per_byte"] < low) low = value[r, "bits_per_byte"]
        if (value[r, "bits_per_byte"] > high) high = value[r, "bits_per_byte"]
    }
    span = high - low; low -= 0.05 * span; high += 0.05 * span
    left = 130; right = width - 40; height = top + 26 * arms + 50
    for (i = 0; i <= 5; i++) {
        x = left + (right - left) * i / 5
        line(x, top - 8, x, top + 26 * arms, "#dfe3e8", 1)
        text(x, top + 26 * arms + 20, "middle", faint, sprintf("%.3f", low + (high - low) * i / 5))
    }
    for (a = 1; a <= arms; a++) {
        text(left - 12, top + 26 * a - 9, "end", ink, arm[a])
        for (r = 1; r <= rows; r++)
            if (value[r, "arm"] == arm[a])
                mark(left + (right - left) * (value[r, "bits_per_byte"] - low) / (high - low), top + 26 * a - 14, shape[(value[r, "seed"] - 1) % 4 + 1], colour[(value[r, "seed"] - 1) % 4 + 1])
    }
    text(left, 26, "start", ink, "Bits per held-out byte; a mark a seed, less is better")
    finish(height, "Held-out bits per byte of every model")
}

function retrieval(   a, b, r, n, sum, bottom, x, y, px, py) {
    bottom = 330
    axis(0, 100, 5, "%.0f %%", bottom)
    for (b = 1; b <= 4; b++)
        text(left + (right - left) * (b - 0.5) / 4, bottom + 22, "middle", faint, sprintf("%d/4 of the context", b))
    for (a = 1; a <= arms; a++) {
        px = 0
        for (b = 1; b <= 4; b++) {
            sum = n = 0
            for (r = 1; r <= rows; r++)
                if (value[r, "arm"] == arm[a]) { sum += value[r, "accuracy_" b]; n++ }
            x = left + (right - left) * (b - 0.5) / 4 + 3 * (a - arms / 2)
            y = bottom - (bottom - top) * sum / n
            if (px) line(px, py, x, y, colour[a], 2)
            mark(x, y, shape[a], colour[a])
            px = x; py = y
        }
        legend(a, shape[a], colour[a], arm[a])
    }
    text(left, 26, "start", ink, "Answers right, by how far back the fact stands (mean of the seeds)")
    finish(bottom + 45, "Accuracy of associative recall by distance")
}

function conversion(   a, r, s, bottom, most, x, y, px, py, n, sum, step) {
    bottom = 330
    axis(0, 1, 5, "%.1f", bottom)
    for (r = 1; r <= rows; r++) if (value[r, "step"] > most) most = value[r, "step"]
    for (s = 0; s <= 5; s++)
        text(left + (right - left) * s / 5, bottom + 22, "middle", faint, sprintf("%d", most * s / 5))
    for (a = 1; a <= arms; a++)
        for (n = 0; n < 2; n++) {
            px = 0
            for (r = 1; r <= rows; r++) {
                if (value[r, "arm"] != arm[a] || value[r, "seed"] != 1) continue
                x = left + (right - left) * value[r, "step"] / most
                y = bottom - (bottom - top) * value[r, n ? "score_recall" : "block_recall"]
                if (px) line(px, py, x, y, colour[2 * a - 1 + n], 2)
                px = x; py = y
            }
            mark(px, py, shape[2 * a - 1 + n], colour[2 * a - 1 + n])
            legend(2 * a - 1 + n, shape[2 * a - 1 + n], colour[2 * a - 1 + n], arm[a] (n ? ", score" : ", block"))
        }
    text(left, 26, "start", ink, "Recall of the selector over the steps of training (seed 1)")
    finish(bottom + 45, "Recall of the selector during training")
}

function cost(   a, r, bottom, x, y, px, py, low, high, names, words) {
    bottom = 330
    split("dense_ms msa_ms", names, " "); split("dense,MSA", words, ",")
    low = 1e9
    for (r = 1; r <= rows; r++) for (a = 1; a <= 2; a++) {
        if (value[r, names[a]] < low) low = value[r, names[a]]
        if (value[r, names[a]] > high) high = value[r, names[a]]
    }
    low = int(log10(low)) ; high = int(log10(high)) + 1
    for (a = low; a <= high; a++) {
        y = bottom - (bottom - top) * (a - low) / (high - low)
        line(left, y, right, y, "#dfe3e8", 1)
        text(left - 8, y + 5, "end", faint, sprintf("%g ms", 10 ^ a))
    }
    for (a = 1; a <= 2; a++) {
        px = 0
        for (r = 1; r <= rows; r++) {
            x = left + (right - left) * (r - 0.5) / rows
            if (a == 1) text(x, bottom + 22, "middle", faint, value[r, "n"])
            y = bottom - (bottom - top) * (log10(value[r, names[a]]) - low) / (high - low)
            if (px) line(px, py, x, y, colour[a], 2)
            mark(x, y, shape[a], colour[a])
            px = x; py = y
        }
        legend(a, shape[a], colour[a], words[a])
    }
    text(left, 26, "start", ink, "Time of one layer's causal attention on this CPU, by length")
    finish(bottom + 45, "Time of dense attention and MSA by length")
}

END {
    if (figure == "parity") parity()
    if (figure == "retrieval") retrieval()
    if (figure == "conversion") conversion()
    if (figure == "cost") cost()
}
