#!/usr/bin/env bash
# The demonstration: what `make demo` runs, on the shipped models and a real text, says what it should.
set -u
msa=${MSA:-build/msa} B=${B:-build}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
n=0 failed=0
check() {
    n=$((n + 1))
    if [[ $1 -eq 0 ]]; then echo "ok $n - $2"; else echo "not ok $n - $2"; failed=1; fi
}
if "$msa" train --text /dev/null --out "$work/x.safetensors" 2>&1 | grep -q jansson; then
    echo "ok 1 - the demonstration # SKIP this build has no jansson, so it reads no models"
    echo "1..1"
    exit 0
fi

text=$(tests/text.sh "$B")
held_out=
[[ $text == */kjv.txt ]] && held_out=--held-out
out=$work/figures
"$msa" demo --model data/kjv-msa.safetensors --twin data/kjv-gqa.safetensors --text "$text" $held_out --out "$out" > "$work/report" 2> "$work/err"
check $? "it runs"
[[ ! -s $work/err ]]
check $? "it has nothing to complain about"
grep -q '(agree)' "$work/report"
check $? "with every block selected MSA equals dense attention"
grep -q '28.44' "$work/report"
check $? "the cost table has the 28.4x line"
[[ -s $out/index.html ]] && ls "$out"/*.png > "$work/list" 2> /dev/null
check $? "it writes index.html and pictures"
grep -q "$out/index.html" "$work/report"
check $? "it says where they are"

# Recall of the selector and of random blocks: columns 2, 3 and 4, 5 of the line "mean".
read -r _ block score random_block random_score < <(grep '^ *mean' "$work/report")
awk -v a="$block" -v b="$random_block" -v c="$score" -v d="$random_score" 'BEGIN { exit !(a > b + 0.1 && c > d + 0.2) }'
check $? "the selector finds far more than random blocks would ($block $score against $random_block $random_score)"
if [[ -n $held_out ]]; then
    awk -v a="$block" -v c="$score" 'BEGIN { exit !(a >= 0.65 && c >= 0.80) }'
    check $? "on the held-out text: block recall at least 0.65, score recall at least 0.80"
    gap=$(sed -n 's/.*(MSA \([-+0-9.]*\) %).*/\1/p' "$work/report")
    awk -v gap="$gap" 'BEGIN { exit !(gap <= 1) }'
    check $? "its loss is within 1 % of the dense twin's ($gap %)"
fi
"$msa" demo --model data/kjv-gqa.safetensors --text "$text" --out "$work/none" > "$work/report" 2> "$work/err"
[[ $? -eq 2 && $(wc -l < "$work/err") -eq 1 && ! -e $work/none ]]
check $? "a dense model is refused"
"$msa" generate --model data/kjv-msa.safetensors --prompt "And God said" --tokens 60 --temperature 0 > "$work/one" &&
    "$msa" generate --model data/kjv-msa.safetensors --prompt "And God said" --tokens 60 --temperature 0 > "$work/two"
check $? "the model continues a prompt"
cmp -s "$work/one" "$work/two" && [[ $(head -c 12 "$work/one") == "And God said" && $(wc -c < "$work/one") -eq 73 ]]
check $? "the same way every time at temperature 0"
echo "1..$n"
exit $failed
