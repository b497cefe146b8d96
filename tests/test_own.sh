#!/usr/bin/env bash
# The reader's own MSA (book/exercises/own): what it begins with fails at every step, the solution passes all and its
# model goes on, with or without a prompt; a plausible mistake in each step is found at that step (tests/own/*.sed);
# chapters 1 to 9 hold a step each. FULL=1: more seeds.
source "$(dirname "$0")/support/tap.sh"
OWN=book/exercises/own P=${B:-build}/exercises/own

steps() { # steps WORDS: those of which the last run says so
    sed -nE "s/^  step ([1-9]) .* $1\$/\1/p" "$W.out" | tr '\n' ' '
}
own() { "$P/$@" > "$W.out" 2> "$W.err"; } # own PROGRAM ARGUMENT...

# Step 9 reads a model, which takes jansson.
last=9 && grep -q HAVE_JANSSON "${B:-build}/flags" || last=8
[[ $last -eq 9 ]] || skip "step 9" "this build has no jansson, so it reads no models"
own stub --steps 1 $last
[[ $? -eq 1 && $(steps 'not yet') == "$(seq -s ' ' $last) " ]] && tail -n 1 "$W.out" | grep -q '^not yet: step 1: '
check $? "what it begins with fails at every step"
own solution --steps 1 $last --prompt 'And God said' --json "$W/json"
[[ $? -eq 0 && $(steps right) == "$(seq -s ' ' $last) " ]] && { [[ $last -eq 8 ]] || grep -q '^  > And God said\[.' "$W.out"; } && grep -q '^{"exercise": "own", "passed": true,' "$W/json"
check $? "the solution passes every step, and its model goes on from a prompt"
for seed in ${FULL:+1 2 3 4 5 6 7 8}; do
    own solution --steps 1 8 --seed "$seed"
    check $? "and with seed $seed"
done
[[ $(wc -l < $OWN/solution.c) -le 340 ]]
check $? "in about 300 lines: $(wc -l < $OWN/solution.c)"

for wrong in tests/own/*.sed; do
    name=wrong_$(basename "$wrong" .sed)
    [[ $(diff "$P/$name.c" $OWN/solution.c | grep -c '^<') -eq $(grep -c '^s' "$wrong") ]]
    check $? "$wrong: each of its lines changes one of the solution"
    read -r -a in <<< "$(sed -nE '1s/^# steps ([0-9 ]+):.*/\1/p' "$wrong")"
    own "$name" --steps "${in[0]}" "${in[-1]}"
    for step in "${in[@]}"; do
        [[ $step -le $last ]] || continue
        [[ " $(steps 'not yet')" == *" $step "* ]]
        check $? "$wrong is wrong in step $step"
    done
done

for bad in "0 9" "3 2" "1 10"; do
    own solution --steps $bad
    [[ $? -eq 2 && $(wc -l < "$W.err") -eq 1 ]]
    check $? "steps $bad: one line and status 2"
done
${MAKE:-make} --no-print-directory DEPS=0 own STEP=x > "$W.out" 2> "$W.err"
[[ $? -eq 2 && ! -s $W.out && $(cat "$W.err") == *'expected STEP=1 to STEP=9, found STEP=x'* && $(wc -l < "$W.err") -eq 1 ]]
check $? "make own STEP=x: one line and status 2"

for step in 1 2 3 4 5 6 7 8 9; do
    page=$(echo book/0${step}_*.md)
    grep -q "^## Your own MSA, step $step" "$page" && grep -qE "^    make own( STEP=$step)?$" "$page" &&
        [[ $(ANSWERS=0 book/site/filter_page.sh "$page" | grep -c 'own/solution.c') -eq 0 ]] &&
        [[ $(book/site/filter_page.sh "$page" | grep -c 'own/solution.c') -ge 1 ]]
    check $? "chapter $step has its step, with an answer that ANSWERS=0 leaves out"
done
finish
