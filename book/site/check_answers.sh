#!/usr/bin/env bash
# check_answers [BOOK]: every question of a chapter has an answer and every answer a question; an answer names only values
# that its program prints, and all of them; a number with a decimal point that it types stands in the chapter too; and an
# exercise that it sends to is there. The checks of the parts have ten questions of three choices.
set -u
book=${1:-$(dirname "$0")/..}
site=$(dirname "$0")
status=0
complain() { echo "$*" >&2 && status=1; }
numbers() { sed -nE 's/^([0-9]+)\. .*/\1/p' "$1" | tr '\n' ' '; } # of a list that is numbered by hand

for page in "$book"/[0-9][0-9]*_*.md; do
    answers=$book/answers/$(basename "$page")
    grep -q '^## Exercises' "$page" || continue
    [[ -e $answers ]] || { complain "$answers: expected the answers to a chapter, found no file" && continue; }
    asked=$(numbers <(sed -n '/^## Exercises/,$p' "$page")) given=$(numbers "$answers")
    [[ -n $asked && $asked == "$given" ]] || complain "$answers: expected answers to ${asked}found ${given:-none}"
    ANSWERS=1 "$site/fold_answers.sh" "$page" > /dev/null || status=1

    values=${answers%.md}.out
    [[ -e ${answers%.md}.c ]] || values=/dev/null
    while read -r name _; do
        grep -qF "[[$name]]" "$answers" || complain "$values: expected every value in an answer, found no [[$name]]"
    done < "$values"
    for name in $(grep -oE 'make exercise N=[a-z_]+' "$answers" | sed 's/.*=//'); do
        compgen -G "$site/../exercises/*_$name" > /dev/null || complain "$answers: expected the name of an exercise, found $name"
    done
    for number in $(grep -oE '[0-9]+\.[0-9]+' "$answers"); do
        cat "$page" "$book/examples/$(basename "$page" .md).out" | grep -qF -e "$number" ||
            complain "$answers: expected [[name]] or a number of the chapter, found $number"
    done
done
for page in "$book"/check_*.md; do # ten questions, three choices each, of which the first one is right
    shape=$(sed -nE 's/^[0-9]+\. .*/?/p; s/^   ([+-]) .+ \| .+/\1/p' "$page" | tr -d '\n')
    [[ $shape == "$(printf '?+--%.0s' {1..10})" ]] || complain "$page: expected ten questions of a right and two wrong choices, found $shape"
    for number in $(grep -oE '[0-9]+\.[0-9]+' "$page"); do
        cat "$book"/[0-9]*.md "$book"/examples/*.out | grep -qF -e "$number" || complain "$page: expected a number of a chapter, found $number"
    done
done
exit $status
