#!/usr/bin/env bash
# The page at the end of `make gpu`: MSA=PROGRAM data/bench/cuda_summary.sh DIR ID LEFT. DIR holds cuda.tsv and the files of
# results, ID names program and device, LEFT is a file of the steps that are still to do, a line each. Only what ID has measured
# counts.
set -u
export LC_ALL=C
dir=$1 id=$2 left=$3
here=$(dirname "$0")

# Lines of cuda.tsv: id, time, step, outcome, seconds, what was said. The last of a step's counts.
mapfile -t files < <(awk -F '\t' -v id="$id" -v dir="$dir" 'NF == 6 && $1 == id { last[$3] = $4 }
    END { for (step in last) if (last[step] == "ok" && step ~ /^bench /) print dir "/" substr(step, 7) ".json" }' "$dir/cuda.tsv" | sort)

# A row a line, from files as jansson prints them, a field a line: run, kernel, ms, TFLOP/s, GB/s, and the ceilings.
rows() {
    for file in "${files[@]}"; do
        [[ -e $file ]] || continue
        run=${file##*/}
        awk -v run="${run%%.*}" '
            { value = $2; sub(/,$/, "", value); gsub(/"/, "", value) }
            /^    "matmul_bf16_tflops"/ { product = value } /^    "copy_gbps"/ { copy = value }
            /^      "/ { field[$1] = value }
            /^    }/ && field["\"verified\":"] == "true" {
                print run, field["\"stage\":"] "/" field["\"kernel\":"], field["\"ms_median\":"], field["\"useful_tflops\":"], field["\"gbps\":"], product, copy
            }
            /^    }/ { delete field }' "$file"
    done
}

heads() { # what the files say of the machine, once
    [[ ${#files[@]} -eq 0 ]] || grep -hE '^  "(device|driver|cuda|commit)":|^    "(matmul_bf16_tflops|copy_gbps)":' "${files[0]}" /dev/null |
        sed -e 's/^ *"//' -e 's/": "*/ /' -e 's/"*,*$//' | paste -sd ';' | sed 's/;/; /g'
}

echo "# make gpu, $(date -u '+%Y-%m-%d %H:%M') UTC"
echo
heads
echo
awk -F '\t' -v id="$id" '
    function starts(step, kind) { return index(step, kind " ") == 1 }
    function passed(kind, n, i) {
        for (i = 1; i <= count; i++) n += starts(order[i], kind) && outcome[order[i]] == "ok"
        return n + 0
    }
    function list(text) { if (++listed <= 30) print text }
    NF == 6 && $1 == id { if (!($3 in outcome)) order[++count] = $3; outcome[$3] = $4; said[$3] = $6 }
    END {
        print "- instructions: " (outcome["instructions all"] == "ok" ? "all equal the engine bit for bit" : passed("instructions") " groups equal the engine bit for bit, not all")
        print "- kernels that agree with the reference: " passed("agree")
        print "- kernels and shapes timed, judged before and after: " passed("bench") "; with peers: " passed("peers")
        if (outcome["tune"] == "ok") print "- parameters: " said["tune"]
        for (i = 1; i <= count; i++) {
            step = order[i]
            if (outcome[step] == "reported") { reports++; clean += said[step] ~ / 0 errors/ }
            else if (outcome[step] == "begun") list("- CUT SHORT: " step)
            else if (outcome[step] == "goes on") list("- goes on: " step ": " said[step])
            else if (outcome[step] == "left out") list("- left out: " step ": " said[step])
            else if (outcome[step] != "ok") list("- NOT PASSED: " step ": " outcome[step] ": " said[step])
        }
        for (i = 1; i <= count; i++) if (outcome[order[i]] == "reported" && said[order[i]] !~ / 0 errors/) list("- report of " order[i] ": " said[order[i]])
        if (listed > 30) print "- and " listed - 30 " more, in cuda.tsv"
        if (reports) print "- reports of compute-sanitizer, which judge nothing: " reports ", of them without errors: " clean + 0
    }' "$dir/cuda.tsv"
if [[ ${#files[@]} -gt 0 ]]; then
    without=$(grep -l '"matmul_bf16_tflops": null' "${files[@]}" 2> /dev/null | wc -l)
    [[ $without -eq 0 ]] || echo "- NO CEILING in $without files: libcublas could not be loaded, so nothing says what share of a matrix product their kernels reach"
fi

printf '\n| target | goal | measured | | source |\n|:--|--:|--:|:--|:--|\n'
rows | awk '
    # The best row of a run: the least of what is time, the most of a rate.
    function best(field, run, kernels, i, x, found) {
        for (i = 1; i <= n; i++) {
            if (of[i] != run || kernel[i] !~ "^(" kernels ")$") continue
            x = field == "tflops" ? tflops[i] : field == "of_product" ? share(tflops[i], product[i]) : field == "of_copy" ? share(gbps[i], copy[i]) : ms[i]
            if (field == "dense_step") x = copy[i] + 0 > 0 ? ms[i] * least(1, gbps[i] / (0.9 * copy[i])) : ""
            if (x + 0 > 0 && (found == "" || (field == "ms" || field == "dense_step" ? x + 0 < found : x + 0 > found))) found = x + 0
        }
        return found
    }
    function share(x, whole) { return whole + 0 > 0 ? x / whole : "" }
    function least(a, b) { return a < b ? a : b }
    function value(text, part, a, b, w) {
        if (split(text, part, " / ") == 2) {
            a = value(part[1]); b = value(part[2])
            return a > 0 && b > 0 ? a / b : ""
        }
        split(text, w, " ")
        return best(w[1], w[2], w[3])
    }
    FILENAME == "-" { n++; of[n] = $1; kernel[n] = $2; ms[n] = $3; tflops[n] = $4; gbps[n] = $5; product[n] = $6; copy[n] = $7; next }
    /^#/ { next }
    {
        split($0, cell, / \| /)
        x = value(cell[2])
        split(cell[3], goal, " ")
        met = x == "" ? "not measured" : (goal[1] == ">=" ? x >= goal[2] : x <= goal[2]) ? "met" : "MISSED"
        printf "| %s | %s | %s | %s | %s |\n", cell[1], cell[3], x == "" ? "" : sprintf("%.3g", x), met, cell[4]
    }' - "$here/cuda_targets.txt"

# What instruction counts had said, beside what was measured: the page is about figures, so only about stages that have both.
if [[ ${#files[@]} -gt 0 ]]; then
    "$MSA" timeline --predict "${files[@]}" 2> /dev/null | awk '
        / [+-][0-9]+%$/ {
            if (!n++) printf "\n| stage | tokens | predicted ms | longest | measured ms | error |\n|:--|--:|--:|:--|--:|--:|\n"
            printf "| %s | %s | %s | %s | %s | %s |\n", $1, $2, $(NF - 5), $(NF - 4), $(NF - 1), $NF
        }
        /^error of the model/ { print "\n" $0 }'
fi

printf '\nleft: %d steps\n' "$(wc -l < "$left")"
cut -d ' ' -f 1-2 "$left" | sed 's/\..*//' | uniq | head -n 12 | sed 's/^/    /'
[[ $(cut -d ' ' -f 1-2 "$left" | sed 's/\..*//' | uniq | wc -l) -le 12 ]] || echo "    ..."
