#!/usr/bin/env bash
# The demonstration: what `make demo` runs, on the shipped models and a real text, says what it should.
source "$(dirname "$0")/support/tap.sh"
B=${B:-build}
if ! has_models; then
    skip "the demonstration" "this build has no jansson, so it reads no models"
    finish
fi

text=$(data/text.sh "$B")
held_out=
[[ $text == */kjv.txt ]] && held_out=--held-out
out=$W/figures
"$MSA" demo --model data/kjv-msa.safetensors --twin data/kjv-gqa.safetensors --text "$text" $held_out --out "$out" > "$W.out" 2> "$W.err"
check $? "it runs"
[[ ! -s $W/err ]]
check $? "it has nothing to complain about"
grep -q '(agree)' "$W.out"
check $? "with every block selected MSA equals dense attention"
grep -q '28.44' "$W.out"
check $? "the cost table has the 28.4x line"
[[ -s $out/index.html ]] && ls "$out"/*.png > "$W/list" 2> /dev/null
check $? "it writes index.html and pictures"
grep -q "$out/index.html" "$W.out"
check $? "it says where they are"

# Recall of the selector and of random blocks: columns 2, 3 and 4, 5 of the line "mean".
read -r _ block score random_block random_score < <(grep '^ *mean' "$W.out")
[[ -n $held_out ]] && least=0.5 || least=0.2 # another language than the one it learned
awk -v a="$block" -v b="$random_block" -v c="$score" -v d="$random_score" -v least=$least \
    'BEGIN { exit !((a - b) / (1 - b) >= least && (c - d) / (1 - d) >= least) }'
check $? "from random blocks ($random_block $random_score) to perfect recall the selector goes $least of the way or more ($block $score)"
if [[ -n $held_out ]]; then
    awk -v a="$block" -v c="$score" 'BEGIN { exit !(a >= 0.65 && c >= 0.88) }'
    check $? "on the held-out text: block recall at least 0.65, score recall at least 0.88"
    masked() { sed -E 's#[^ ]*/([a-z])#\1#g; s/[-+]?[0-9][0-9.e-]*/N/g'; } # paths and numbers may differ
    awk '/^```text/ { on = 1; next } /^```/ { on = 0 } on' README.md | sed '/index.html$/q' | masked > "$W/readme"
    masked < "$W.out" | diff "$W/readme" - > "$W/diff"
    check $? "but for the digits the README shows this report"
    gap=$(sed -n 's/.*(MSA \([-+0-9.]*\) %).*/\1/p' "$W.out")
    awk -v gap="$gap" 'BEGIN { exit !(gap <= 1) }'
    check $? "its loss is within 1 % of the dense twin's ($gap %)"
fi
"$MSA" demo --model data/kjv-gqa.safetensors --text "$text" --out "$W/none" > "$W.out" 2> "$W.err"
[[ $? -eq 2 && $(wc -l < "$W.err") -eq 1 && ! -e $W/none ]]
check $? "a dense model is refused"
touch "$W/a-file"
for bad in "$W/a-file" "$W/none/below" ""; do
    "$MSA" demo --model data/kjv-msa.safetensors --text "$text" --out "$bad" > "$W.out" 2> "$W.err"
    [[ $? -eq 2 && $(wc -l < "$W.err") -eq 1 && ! -s $W.out && ! -e $W/none ]]
    check $? "nowhere to write the pictures: '${bad#"$W"}' is refused before the work"
done
"$MSA" generate --model data/kjv-msa.safetensors --prompt "And God said" --tokens 60 --temperature 0 > "$W/one" &&
    "$MSA" generate --model data/kjv-msa.safetensors --prompt "And God said" --tokens 60 --temperature 0 > "$W/two"
check $? "the model continues a prompt"
cmp -s "$W/one" "$W/two" && [[ $(head -c 12 "$W/one") == "And God said" && $(wc -c < "$W/one") -eq 73 ]]
check $? "the same way every time at temperature 0"
"$MSA" generate --model data/kjv-msa.safetensors --prompt "And God said" --tokens 60 --temperature 0 --precision bf16 > "$W/bf16" &&
    cmp -s "$W/one" "$W/bf16"
check $? "and with the same words where attention multiplies bf16"
finish
