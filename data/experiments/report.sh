#!/usr/bin/env bash
# experiments.sh DIR OUT: tables of DIR/*.csv on standard output, as Markdown, and their figures in OUT. Nothing here
# is typed but what the paper found; a table that is not there yet is said to be missing.
set -eu
export LC_ALL=C
cd "$(dirname "$0")/../.." || exit 2
dir=${1:-data/experiments} out=${2:-figures/experiments}
mkdir -p "$out" || exit 2
link=$(realpath -m --relative-to="$dir" "${LINK:-$out}")

# Reads a table of experiments: mean(arm, measure), low(..), high(..) over the seeds; n[arm]; arms in order.
READ='
BEGIN { FS = "," }
NR == 1 { for (i = 1; i <= NF; i++) column[$i] = i; next }
{ if (!($1 in n)) arm[++arms] = $1; n[$1]++
  for (c in column) if ($column[c] ~ /^-?[0-9.]+$/) {
      v = $column[c]; k = $1 SUBSEP c; count[k]++; sum[k] += v; at[k, $column["seed"]] = v
      if (!(k in least) || v < least[k]) least[k] = v
      if (!(k in most) || v > most[k]) most[k] = v } }
function mean(a, c) { return (a SUBSEP c) in sum ? sum[a, c] / count[a, c] : "" }
function spread(a, c) { return (a SUBSEP c) in sum ? most[a, c] - least[a, c] : 0 }
function show(a, c, format) { return (a SUBSEP c) in sum ? sprintf(format, mean(a, c)) : "" }
function wider(a, b, c) { return spread(a, c) > spread(b, c) ? spread(a, c) : spread(b, c) }
# gap: the mean of a - b over the seeds that both have; half: half of its 95 % interval by the t of Student.
function pair(a, b, c,   s, d, m, squares) {
    gap = squares = m = 0
    for (s = 1; s < 100; s++) if ((a, c, s) in at && (b, c, s) in at) {
        d = at[a, c, s] - at[b, c, s] - gap; gap += d / ++m; squares += d * d * (m - 1) / m }
    split("12.706 4.303 3.182 2.776 2.571 2.447 2.365 2.306 2.262", t, " ")
    half = m < 2 ? 1e9 : (m > 10 ? 2.262 : t[m - 1]) * sqrt(squares / (m - 1) / m) }
'

table() { # table FILE AWK-PROGRAM
    if [[ -s $dir/$1 ]]; then awk "$READ $2" "$dir/$1"; else printf 'Not run yet: %s is missing.\n' "$dir/$1"; fi
}

# Draws a figure of a table that is there.
draw() { # draw KIND FILE FIGURE
    [[ ! -s $dir/$2 ]] || awk -v figure="$1" -f data/experiments/report.awk "$dir/$2" > "$out/$3.svg"
}
draw parity text.csv parity
readarray -t retrievals < <(cd "$dir" && ls retrieval*.csv 2> /dev/null | sort -t . -k 1,1)
for file in "${retrievals[@]}"; do draw retrieval "$file" "${file%.csv}"; done
draw conversion text-curves.csv conversion
draw cost cost.csv cost
show() { # show FIGURE WORDS
    [[ ! -s $out/$1.svg ]] || printf '\n![%s](%s/%s.svg)\n' "$2" "$link" "$1"
}

cat << 'END'
# The paper's claims, re-run small

`make experiments` trains every model named in [small.conf](small.conf) that has no row in the tables of this directory yet,
and writes this page from them. A row holds its seed, the commit and the commands that made it;
`data/experiments/run.sh check data/experiments/small.conf data/experiments text msa 1` trains one again and compares.
"Spread" is the largest value minus the smallest over the seeds. The same machine with the same libraries gives the same row;
another processor rounds otherwise and ends near it.

These are models of two layers that train for a few minutes. What they say about the paper's claims at 109 billion parameters
is limited, most of all where a claim is about divergence or about lengths that do not fit here.

## Parity

END
table text.csv '
END { print "| model | seeds | held-out bits per byte | spread | against dense |\n|---|---|---|---|---|"
  split("dense msa converted", want, " ")
  for (i = 1; i <= 3; i++) { a = want[i]; if (!(a in n) || !("dense" in n)) continue
    pair(a, "dense", "bits_per_byte"); allowed = wider(a, "dense", "bits_per_byte")
    one = 0.01 * mean("dense", "bits_per_byte"); if (one > allowed) allowed = one
    printf "| %s | %d | %.4f | %.4f | %s |\n", a, n[a], mean(a, "bits_per_byte"), spread(a, "bits_per_byte"),
        a == "dense" ? "" : sprintf("%+.2f ± %.2f %%, %s", 100 * gap / mean("dense", "bits_per_byte"), 100 * half / mean("dense", "bits_per_byte"), (gap <= allowed ? "within" : "outside") " the spread or 1 %") }
}'
show parity "Held-out bits per byte of every model, a mark a seed"
printf '\n## Conversion\n\n'
if [[ -s $dir/text-curves.csv ]]; then
    awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) column[$i] = i; next }
        !($1 in n) { arm[++arms] = $1 } { n[$1]++; step = $column["step"]; if (step > most) most = step
          count[$1, step]++; for (c in column) if (c ~ /recall|nats/) sum[$1, step, c] += $column[c] }
        END { print "| model | step | block recall | score recall | KL loss, nats | entropy, nats |\n|---|---|---|---|---|---|"
          for (i = 1; i <= arms; i++) for (s = 1; s <= most; s++) { a = arm[i]; m = count[a, s]
            if (m && int(s * 6 / most) != int((s - 1) * 6 / most))
              printf "| %s | %d | %.3f | %.3f | %.3f | %.2f |\n", a, s, sum[a, s, "block_recall"] / m, sum[a, s, "score_recall"] / m,
                sum[a, s, "kl_nats"] / m, sum[a, s, "entropy_nats"] / m } }' "$dir/text-curves.csv"
    printf '\nMeans of the layers and seeds. The KL loss runs over all visible tokens in the warmup and over the chosen ones after it, and\nis 0 while the model is dense. `msa` has %s warmup steps; `converted` is dense first.\n' \
        "$(sed -n 's/^msa,1,.*--index-warmup \([0-9]*\).*/\1/p' "$dir/text.csv")"
else
    echo "Not run yet: $dir/text-curves.csv is missing."
fi
show conversion "Recall, KL loss and entropy during training, a line a seed"
printf '\n## Long-range retrieval\n\nA guess is right one time in eight.\n'
option() { # option NAME FILE: its value in the command of msa with the first seed
    sed -n "s/^msa,1,.*--$1 \([0-9]*\).*/\1/p" "$dir/$2"
}
answers() { # answers FILE: the table of its models
    table "$1" '
END { print "| model | seeds | answers right | spread | by distance: to 1/4 | to 2/4 | to 3/4 | to 4/4 | part of dense |\n|---|---|---|---|---|---|---|---|---|"
  for (i = 1; i <= arms; i++) { a = arm[i]; printf "| %s | %d | %.1f %% | %.1f | ", a, n[a], 100 * mean(a, "accuracy"), 100 * spread(a, "accuracy")
    for (b = 1; b <= 4; b++) printf "%.1f %% | ", 100 * mean(a, "accuracy_" b)
    printf "%s |\n", mean("dense", "accuracy") == "" ? "" : sprintf("%.1f %%", 100 * mean(a, "accuracy") / mean("dense", "accuracy")) } }'
}
for file in "${retrievals[@]}"; do
    printf '\n### %d tokens, %d blocks of %d chosen\n\n' "$(option context "$file")" "$(option topk "$file")" "$(option block "$file")"
    answers "$file"
    show "${file%.csv}" "Answers right by distance"
done
[[ ! -s $dir/one-layer.csv ]] || { printf '\n### One layer instead of two\n\n'; answers one-layer.csv; }
[[ ${#retrievals[@]} -gt 0 ]] || printf '\nNot run yet: %s is missing.\n' "$dir/retrieval.csv"
printf '\n## Ablations\n\n'
table text.csv '
END { print "| model | seeds | bits per byte | spread | against msa | block recall | score recall |\n|---|---|---|---|---|---|---|"
  for (i = 1; i <= arms; i++) { a = arm[i]
    printf "| %s | %d | %.4f | %.4f | %s | %s | %s |\n", a, n[a], mean(a, "bits_per_byte"), spread(a, "bits_per_byte"),
      a == "msa" || mean("msa", "bits_per_byte") == "" ? "" : sprintf("%+.4f", mean(a, "bits_per_byte") - mean("msa", "bits_per_byte")),
      show(a, "block_recall", "%.3f"), show(a, "score_recall", "%.3f") } }'
cat << 'END'

## The paper and this

The same seed gives the same first weights and the same order of the text, so models are compared seed by seed. `±`: half of
the interval that holds the mean difference in 95 of 100 cases, by Student's t. A difference is one that is larger; among twenty
comparisons of equals there would be one. `-`: fewer than 3 seeds yet.

END
table text.csv '
function row(what, a, b, paper, expected,   found) {
    if (n[a] < 3 || n[b] < 3) { printf "| %s | %s | - | - |\n", what, paper; return }
    pair(a, b, "bits_per_byte")
    found = gap > half ? "worse" : gap < -half ? "better" : "none seen"
    printf "| %s | %s | %s (%+.4f ± %.4f bits) | %s |\n", what, paper, found, gap, half,
        expected == "" ? "not in the paper" : found == expected || (expected == "not better" && found != "better") ? "same" : "not the same" }
END { print "| change | the paper | difference here | |\n|---|---|---|---|"
  row("MSA from scratch against dense", "msa", "dense", "on par", "none seen")
  row("MSA converted from dense against dense", "converted", "dense", "on par", "none seen")
  row("no detach", "attached", "msa", "diverges", "worse")
  row("no warmup", "no-warmup", "msa", "entropy collapses early", "worse")
  row("index value head, language loss only", "value-head", "msa", "tried and dropped", "not better")
  row("learnable sink logit", "sink", "msa", "tried and dropped", "not better")
  row("first block and a window forced", "forced", "msa", "tried and dropped", "not better")
  row("blocks of 8, equal budget", "block-8", "msa", "32, 64, 128 about equal", "none seen")
  row("blocks of 32, equal budget", "block-32", "msa", "32, 64, 128 about equal", "none seen")
  row("sliding window and first block, equal arithmetic", "window", "msa", "worse", "worse")
  row("mean instead of max over a block", "mean", "msa", "left out", "")
  row("sum of a block'"'"'s exponentials instead of its max", "sum", "msa", "left out", "")
  row("KL in the other direction", "reverse-kl", "msa", "left out", "")
  row("k = 2 instead of 6", "k-2", "msa", "left out", "")
  row("k = 4", "k-4", "msa", "left out", "")
  row("k = 12", "k-12", "msa", "left out", "")
  row("random blocks", "random", "msa", "left out", "") }'
for file in "${retrievals[@]}"; do
    table "$file" "function length_of() { return $(option context "$file") }"'
function row(what, a, b, paper, low, high,   share) {
    what = "retrieval from " length_of() " tokens: " what
    if (n[a] < 3 || n[b] < 3) { printf "| %s | %s | - | - |\n", what, paper; return }
    share = mean(a, "accuracy") / mean(b, "accuracy")
    printf "| %s | %s | %.1f %% of its right answers (%.1f against %.1f %%, spread %.1f) | %s |\n", what, paper, 100 * share,
        100 * mean(a, "accuracy"), 100 * mean(b, "accuracy"), 100 * wider(a, b, "accuracy"), (share >= low && share <= high) ? "same" : "not the same" }
END { row("MSA against dense", "msa", "dense", "on par", 0.95, 9)
  row("sliding window and first block, equal arithmetic, against MSA", "window", "msa", "worse", 0, 0.9) }'
done
cat << 'END'

## The same weights, another rule

The models `msa` of the tables above, judged while they choose blocks by another rule than they learned with. `max`: their own.
`sum`: the sum of a block's exponentials, its mass in the softmax that the index was trained to get right. `mean`: the mean of the
index logits.

END
rules() { # rules FILE RULES-FILE AWK-PROGRAM: `msa` of FILE as `max`, and what RULES-FILE has
    if [[ ! -s $dir/$2 || ! -s $dir/$1 ]]; then
        printf 'Not run yet: %s is missing.\n' "$dir/$2"
        return
    fi
    { sed -n '1p; s/^msa,/max,/p' "$dir/$1"; tail -n +2 "$dir/$2"; } | awk "$READ $3"
}
rules text.csv rules-text.csv '
END { print "| rule | seeds | bits per byte | against max | block recall | score recall |\n|---|---|---|---|---|---|"
  for (i = 1; i <= arms; i++) { a = arm[i]; pair(a, "max", "bits_per_byte")
    printf "| %s | %d | %.4f | %s | %.3f | %.3f |\n", a, n[a], mean(a, "bits_per_byte"),
      a == "max" ? "" : sprintf("%+.4f ± %.4f", gap, half), mean(a, "block_recall"), mean(a, "score_recall") } }'
printf '\nHeld-out text.\n\n'
rules retrieval.csv rules-task.csv '
END { print "| rule | seeds | answers right | lowest | highest | block recall | score recall |\n|---|---|---|---|---|---|---|"
  for (i = 1; i <= arms; i++) { a = arm[i]
    printf "| %s | %d | %.1f %% | %.1f %% | %.1f %% | %.3f | %.3f |\n", a, n[a], 100 * mean(a, "accuracy"), 100 * least[a, "accuracy"],
      100 * most[a, "accuracy"], mean(a, "block_recall"), mean(a, "score_recall") } }'
printf '\nAssociative recall, 512 tokens.\n'
cat << 'END'

## Attention in bf16

The small model after a few hundred steps, whose attention multiplied float32 or bf16 (`msa train --precision bf16`); both are
judged in float32. A Xeon without tiles made these rows, so bf16 is that of the portable bodies.

END
table precision.csv '
END { print "| attention | seeds | held-out bits per byte | spread | against float32 | block recall |\n|---|---|---|---|---|---|"
  for (i = 1; i <= arms; i++) { a = arm[i]; pair(a, "float32", "bits_per_byte"); allowed = wider(a, "float32", "bits_per_byte")
    printf "| %s | %d | %.4f | %.4f | %s | %.3f |\n", a, n[a], mean(a, "bits_per_byte"), spread(a, "bits_per_byte"),
      a == "float32" ? "" : sprintf("%+.4f ± %.4f, %s the spread", gap, half, (gap <= allowed && gap >= -allowed ? "within" : "outside")),
      mean(a, "block_recall") } }'
cat << 'END'

## Index keys of 8 bits

What 8-bit index keys do to models of 64 blocks of 16 tokens, 5 of them wanted besides the local one. E4M3 alone: the share of sets that stay as they are. int8
with a bound (chapter 13b of the book): the ids stay, and so many of a query's blocks before the local one are left open. The
bound is by lengths; `free` may stretch channels of index queries and keys, `gain-2` by a factor of 2 at most, `gain-1` not at all.

END
table bound.csv '
function all(a, what,   l, x) { for (l = 0; (what "_" l) in column; l++) x += mean(a, what "_" l); return l ? x / l : 0 }
function per_seed(a, what, s,   l, x) { for (l = 0; (what "_" l) in column; l++) x += at[a, what "_" l, s]; return x / l }
END { print "| gains | seeds | held-out bits per byte | against free | block recall | E4M3: equal sets | int8: blocks open | against free | of |\n|---|---|---|---|---|---|---|---|---|"
  for (i = 1; i <= arms; i++) for (s = 1; s < 100; s++)
    if ((arm[i], "settled_0", s) in at) at[arm[i], "open", s] = per_seed(arm[i], "settled", s)
  for (i = 1; i <= arms; i++) { a = arm[i]; pair(a, "free", "bits_per_byte")
    printf "| %s | %d | %.4f | %s | %.3f | %.1f %% | %.2f | ", a, n[a], mean(a, "bits_per_byte"),
      a == "free" ? "" : sprintf("%+.4f ± %.4f", gap, half), mean(a, "block_recall"), 100 * all(a, "equal_sets"), all(a, "settled")
    pair(a, "free", "open"); printf "%s | %.2f |\n", a == "free" ? "" : sprintf("%+.2f ± %.2f", gap, half), all(a, "blocks") } }'
cat << 'END'

### Random keys and learned ones

Means over the queries that have a choice. `shipped`: the shipped model on 12 windows of its own length. `bound/free` and others
with a slash: an experiment of this page and one of its models, on 8 windows. `-N`: on one window of N tokens, longer than any that
the model was trained on. E4M3: keys alone are rounded, the queries stay whole. int8: both are, and with the
bound no id is wrong. Random keys are those of chapter 13b's program, 16 queries; there `tests/test_million_keys.c` counts rows
settled in full. `data/experiments/keys.sh` makes the rows of learned keys.

| keys | layer | tokens | E4M3: equal sets | score recall, 16 bits | score recall, E4M3 | int8: blocks open | of | part | rows settled in full |
|---|---|---|---|---|---|---|---|---|---|
END
awk '/^random keys, 15/ { name = "random" } /^the same, four/ { name = "random, four channels × 6" }
    $3 == "/" { printf "| %s | | %d | %.1f %% | %.3f | %.3f | %d | %d | %.1f %% | |\n", name, 128 * $1, 100 * $2 / $4, $6, $7, $8, $1, 100 * $8 / $1 }' \
    book/examples/13b_eight.out
[[ ! -s $dir/keys.csv ]] || awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) column[$i] = i; next }
    { k = $1 SUBSEP $3; if (!(k in n)) row[++rows] = k; n[k]++; name[k] = $1; layer[k] = $3; tokens[k] = $4
      for (c in column) sum[k, c] += $column[c] }
    function of(c) { return sum[k, c] / n[k] }
    END { for (r = 1; r <= rows; r++) { k = row[r]; seeds = n[k] > 1 ? sprintf(", %d seeds", n[k]) : ""
        printf "| %s%s | %d | %d | %.1f %% | %.4f | %.4f | %.2f | %.1f | %.0f %% | %.1f %% |\n", name[k], seeds, layer[k], tokens[k], 100 * of("equal_sets"),
            of("score_recall_16"), of("score_recall_8"), of("open"), of("blocks"), 100 * of("open") / of("blocks"), 100 * of("fell_back") } }' "$dir/keys.csv"
printf '\n## What the selector looks like\n\nEntropy of the full softmax of the Main Branch in nats, its mass on the first block, how often the first block is\nchosen, and how alike the choices of the two groups are (intersection over union), layer by layer.\n\n'
table text.csv '
END { layers = 0; while (("entropy_" layers) in column) layers++
  printf "| model |"; for (l = 0; l < layers; l++) printf " entropy %d | first mass %d | first chosen %d | agreement %d |", l, l, l, l
  printf "\n|---|"; for (l = 0; l < 4 * layers; l++) printf "---|"; print ""
  for (i = 1; i <= arms; i++) { a = arm[i]; if (mean(a, "entropy_0") == "") continue
    printf "| %s |", a
    for (l = 0; l < layers; l++) printf " %.2f | %.3f | %.3f | %.3f |", mean(a, "entropy_" l), mean(a, "first_mass_" l), mean(a, "first_taken_" l), mean(a, "agreement_" l)
    print "" } }'
for map in "${LINK:-$out}"/frequency_*.png; do
    arm=${map##*frequency_}
    [[ ! -e $map ]] || printf '\n![How often each key block is chosen: %s, seed 1](%s/%s)\n' "${arm%.png}" "$link" "${map##*/}"
done
printf '\n## Cost\n\n'
if [[ -s $dir/cost.csv ]]; then
    awk -F, 'NR > 1 { if (NR == 2) print "| tokens | dense, ms | MSA, ms | measured ratio | ratio of the cost model |\n|---|---|---|---|---|"
        printf "| %d | %.1f | %.1f | %.2f | %.2f |\n", $1, $2, $3, $2 / $3, $4
        if (!cross && $2 > $3) cross = $1
        if (!model && $4 > 1) model = $1
        device = $5 }
        END { printf "\nMSA is the faster one from %s tokens on here, and from %s on by the cost model, which charges\nevery query for k blocks, also the first ones, which see fewer. Up to 2048 tokens MSA keeps all blocks, and its index is extra.\n%s.\n", cross ? cross : "none of these", model ? model : "none of these", device }' "$dir/cost.csv"
else
    echo "Not run yet: $dir/cost.csv is missing ('make experiments-cost', on a quiet machine)."
fi

show cost "Time by length"
