#!/usr/bin/env bash
# Grades answers: class/grade.sh [--seeds FILE] [--only 01,05,own] [--out DIR] SUBMISSION...
#
# A submission is a directory with book/exercises/*/mine.c or mine.cu, such as a student's clone. Its answers, and nothing
# else of it, are copied into the tree in which this script lies, judged there with every seed of FILE (a number a line;
# without one, with a seed of its own), and taken away again. DIR/NAME.json holds the result of a submission:
#
#     {"submission": NAME, "seeds": how many, "passed": how many, "begun": how many, "own_steps": steps of make own,
#      "exercises": [{"exercise", "passed", "verdict", "bars"}...]}
#
# an exercise having passed if it does with each seed, and its verdict being the first that it does not. DIR/summary.csv has
# a line for each submission. No seed is written there. Ends with 0 if every answer passes, 1 if not, 2 for a bad call.
set -u
export LC_ALL=C
refuse() {
    echo "grade: $1" >&2
    exit 2
}
here=$(realpath "$(dirname "${BASH_SOURCE[0]}")/..")
seeds=() only= out=results
while [[ ${1:-} == --* ]]; do
    [[ $# -ge 2 ]] || refuse "expected a value behind $1, found none"
    case $1 in
    --seeds) mapfile -t seeds < <(cat "$2") && [[ ${#seeds[@]} -gt 0 ]] || refuse "--seeds: expected a file of numbers, found $2" ;;
    --only) only=,$2, ;;
    --out) out=$2 ;;
    *) refuse "expected --seeds, --only or --out, found $1" ;;
    esac
    shift 2
done
for seed in "${seeds[@]}"; do [[ $seed =~ ^[0-9]{1,19}$ ]] || refuse "--seeds: expected a number of at most 19 digits a line, found '$seed'"; done
[[ ${#seeds[@]} -gt 0 ]] || seeds=($((RANDOM * 32768 + RANDOM)))
[[ $# -gt 0 ]] || refuse "expected a submission, found none"
for submission in "$@"; do [[ -d $submission/book/exercises ]] || refuse "expected a directory with book/exercises, found $submission"; done
twice=$(for submission in "$@"; do basename "$(realpath "$submission")"; done | sort | uniq -d | head -n 1)
[[ -z $twice ]] || refuse "expected submissions with names of their own, found two called $twice"
for submission in "$@"; do
    [[ $(realpath "$submission") != "$here" ]] || continue
    compgen -G "$here/book/exercises/*/mine.c*" > /dev/null && refuse "expected no answers in $here, which judges those of others; found some"
done
mkdir -p "$out" && out=$(realpath "$out") || exit 2
work=$(mktemp -d) || exit 2
placed=
trap 'rm -rf "$work"; [[ -z $placed ]] || rm -f "${placed%.*}".*' EXIT
trap 'exit 130' INT TERM

judge() { # judge EXERCISE: its object into $work/json; 0 if it passed with every seed
    local seed command=(run "${1%%_*}") steps=() ended=new
    [[ $1 != own ]] || { command=(own) && steps=(--steps 1 9); }
    for seed in "${seeds[@]}"; do
        if [[ $ended == 0 ]]; then
            { (cd "$here" && "build/exercises/$1/mine" "${steps[@]}" --seed "$seed" --json "$work/json"); } > "$work/said" 2>&1
            ended=$?
        fi
        if [[ $ended != [01] ]]; then # not built yet, or this seed killed it: exercise.sh has words for that
            SEED=$seed RESULT=$work/json B=build MAKE="make DEPS=0" CXX17=1 "$here/book/exercises/exercise.sh" "${command[@]}" > "$work/said" 2>&1
            ended=$?
        fi
        [[ $ended -le 1 ]] || refuse "$1: $(tail -n 1 "$work/said")"
        [[ $ended -eq 0 ]] || return 1
    done
}

status=0 total=$(ls -d "$here"/book/exercises/[0-9]*/ | wc -l)
echo "submission,passed,begun,own_steps" > "$out/summary.csv"
for submission in "$@"; do
    name=$(basename "$(realpath "$submission")") objects=() passed=0 steps=0
    for answer in "$submission"/book/exercises/*/mine.c "$submission"/book/exercises/*/mine.cu; do
        [[ -f $answer ]] || continue
        exercise=$(basename "$(dirname "$answer")")
        [[ -z $only || $only == *,"${exercise%%_*}",* ]] || continue
        at=$here/book/exercises/$exercise
        [[ -d $at ]] || { echo "$name: $exercise is no exercise here" >&2 && continue; }
        if [[ $(realpath "$submission") != "$here" ]]; then placed=$at/mine.${answer##*.} && cp "$answer" "$placed"; fi
        if judge "$exercise"; then passed=$((passed + 1)) && word=passed; else status=1 && word=$(grep '^not yet' "$work/said" | tail -n 1 | sed 's/ (seed [0-9]*)$//'); fi
        [[ $exercise != own ]] || steps=$(grep -cE '^  step [1-9] .* right$' "$work/said")
        objects+=("$(sed -E 's/"seed": [0-9a-z]+, //' "$work/json")")
        printf '%s: %-20s %s\n' "$name" "$exercise" "${word:0:150}"
        [[ -z $placed ]] || rm -f "${placed%.*}".*
        placed=
    done
    {
        printf '{"submission": "%s", "seeds": %d, "passed": %d, "begun": %d, "own_steps": %d, "exercises": [' \
            "${name//[\"\\]/_}" ${#seeds[@]} $passed ${#objects[@]} "$steps"
        for ((i = 0; i < ${#objects[@]}; i++)); do printf '%s\n%s' "$([[ $i -eq 0 ]] || echo ,)" "${objects[i]}"; done
        printf ']}\n'
    } > "$out/$name.json"
    field=$name
    [[ $name != *[,\"]* ]] || field=\"${name//\"/\"\"}\" # a folder called "Doe, Jane" is one field
    echo "$field,$passed,${#objects[@]},$steps" >> "$out/summary.csv"
    echo "$name: $passed of ${#objects[@]} answers pass; there are $total exercises and one MSA of one's own ($steps of 9 steps)"
done
exit $status
