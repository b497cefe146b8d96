# Draws one figure of the experiments as SVG from their tables: awk -v figure=NAME -f experiments.awk FILE.csv
# Figures: parity (a mark a model), retrieval (accuracy by distance), conversion (recall, loss and entropy over the
# steps), cost (time by length).
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
# The least of 1, 2, 4, 6, 8 and 10 times a power of ten that is not below x: a quarter of it is easy to read.
function round_up(x,   power, i, m) {
    for (power = 1; power > x; power /= 10);
    for (; 10 * power < x; power *= 10);
    split("1 2 4 6 8 10", m, " ")
    for (i = 1; m[i] * power < x; i++);
    return m[i] * power
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
        text(left + (right - left) * (b - 0.5) / 4, bottom + 22, "middle", faint, sprintf("to %d/4", b))
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
    text(left, 26, "start", ink, "Answers right, by how far back the fact stands, in parts of the context (means of the seeds)")
    finish(bottom + 45, "Accuracy of associative recall by distance")
}

# One panel a measure; a line a seed.
function panel(measure, words, x0, y0, w, h, high,   a, r, i, x, y, px, py, last) {
    if (!high) {
        for (r = 1; r <= rows; r++) if (value[r, measure] > high) high = value[r, measure]
        high = round_up(high)
    }
    text(x0, y0 - 12, "start", ink, words)
    for (i = 0; i <= 4; i++) {
        y = y0 + h - h * i / 4
        line(x0, y, x0 + w, y, "#dfe3e8", 1)
        text(x0 - 8, y + 5, "end", faint, sprintf("%.2f", high * i / 4))
        text(x0 + w * i / 4, y0 + h + 20, "middle", faint, sprintf("%d", most * i / 4))
    }
    for (a = 1; a <= arms; a++) {
        last = ""
        for (r = 1; r <= rows; r++) {
            if (value[r, "arm"] != arm[a]) continue
            x = x0 + w * value[r, "step"] / most
            y = y0 + h - h * value[r, measure] / high
            if (last == value[r, "seed"]) line(px, py, x, y, colour[a], 1.5)
            if (value[r, "step"] == most) mark(x, y, shape[a], colour[a])
            px = x; py = y; last = value[r, "seed"]
        }
    }
}

function conversion(   a, r) {
    width = 1000
    for (r = 1; r <= rows; r++) if (value[r, "step"] > most) most = value[r, "step"]
    panel("block_recall", "Block recall", 70, 60, 320, 200, 1)
    panel("score_recall", "Score recall", 490, 60, 320, 200, 1)
    panel("kl_nats", "KL loss, nats", 70, 330, 320, 200, 0)
    panel("entropy_nats", "Entropy of the main attention, nats", 490, 330, 320, 200, 0)
    right = 815; top = 60
    for (a = 1; a <= arms; a++) legend(a, shape[a], colour[a], arm[a])
    text(70, 24, "start", ink, "The selector and what it learns from, over the steps of training; a line a seed")
    finish(570, "Recall of the selector, its loss, and the entropy of the main attention during training")
}

function cost(   a, r, bottom, x, y, px, py, low, high, names, words) {
    bottom = 330; left = 105
    split("dense_ms msa_ms model_ms", names, " "); split("dense,MSA,MSA if the model's", words, ",")
    low = 1e9
    for (r = 1; r <= rows; r++) value[r, "model_ms"] = value[r, "dense_ms"] / value[r, "model_flop_ratio"]
    for (r = 1; r <= rows; r++) for (a = 1; a <= 3; a++) {
        if (value[r, names[a]] < low) low = value[r, names[a]]
        if (value[r, names[a]] > high) high = value[r, names[a]]
    }
    low = int(log10(low)) ; high = int(log10(high)) + 1
    for (a = low; a <= high; a++) {
        y = bottom - (bottom - top) * (a - low) / (high - low)
        line(left, y, right, y, "#dfe3e8", 1)
        text(left - 8, y + 5, "end", faint, sprintf("%g ms", 10 ^ a))
    }
    for (a = 1; a <= 3; a++) {
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
    text(right + 34, top + 108, "start", ink, "ratio held")
    text(left, 26, "start", ink, "Time of one layer's causal attention on this CPU, by length")
    finish(bottom + 45, "Time of dense attention and MSA by length")
}

END {
    if (figure == "parity") parity()
    else if (figure == "retrieval") retrieval()
    else if (figure == "conversion") conversion()
    else if (figure == "cost") cost()
    else { print "experiments.awk: no figure " figure > "/dev/stderr"; exit 1 }
}
