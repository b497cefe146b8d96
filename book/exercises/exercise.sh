#!/usr/bin/env bash
# make exercise, make hint and make progress: exercise.sh run|hint|ready|find|progress [N], in the project's root. A
# student's files are book/exercises/NN_name/mine.*, which git ignores and `make clean` leaves alone: the
# answer mine.c or mine.cu, the hints shown so far, and the answer's last verdict. "run" takes SEED and RESULT, a
# file for the result, from the environment; it ends with 0 for a pass, 1 for "not yet" and 2 for a bad call.
# make own: exercise.sh own, the same for own/mine.c and its first STEP steps; PROMPT is for the last of them.
set -u
export LC_ALL=C
B=${B:-build} EX=book/exercises

refuse() {
    echo "exercise: $1" >&2
    exit 2
}

# The directory of exercise N: its number, with or without a leading zero, or its name.
find_exercise() {
    local n=$1 found
    [[ $n =~ ^[0-9]$ ]] && n=0$n
    if [[ $n =~ ^([0-9]{2}|[a-z_]+)$ ]]; then
        for found in "$EX/${n}"_*/ "$EX"/[0-9][0-9]_"$n"/; do
            [[ -d $found ]] && echo "${found%/}" && return
        done
    elif [[ $n =~ ^[0-9]{2}_[a-z_]+$ && -d $EX/$n ]]; then
        echo "$EX/$n" && return
    fi
    [[ $n == own ]] && echo "$EX/own" && return
    local all=("$EX"/[0-9]*/)
    refuse "expected N=01 to N=$(basename "${all[-1]}" | cut -c1-2) or a name that 'make progress' lists, found N=$1"
}

answer_of() { # its path, whether it exists or not
    if [[ -f $1/stub.cu ]]; then echo "$1/mine.cu"; else echo "$1/mine.c"; fi
}

quoted() { # as JSON wants it
    local text=${1//\\/\\\\}
    printf '"%s"' "$(tr '\n\t' '  ' <<<"${text//\"/\\\"}" | sed 's/ *$//')"
}

# A verdict of this script: on an answer that was not run. The others come from the answer's judge.
not_yet() { # not_yet NAME WHY
    [[ -z ${RESULT:-} ]] || printf '{"exercise": %s, "passed": false, "verdict": %s, "seed": %s, "bars": []}\n' \
        "$(quoted "$1")" "$(quoted "$2")" "${SEED:-null}" >"$RESULT" || exit 2
    echo "not yet: $2"
}

by_what() { # a shell's status is 128 and more where a signal ended a program
    if [[ $1 -gt 128 ]] && kill -l $(($1 - 128)) >/dev/null 2>&1; then echo "by SIG$(kill -l $(($1 - 128)))"; else echo "with status $1"; fi
}

judge() { # judge NAME ANSWER OUT [ARGUMENT...]: the last line is the verdict
    local name=$1 answer=$2 out=$3
    shift 3
    $MAKE --no-print-directory "$out/mine.admitted.o" 2>&1 | grep -vE '^make'
    [[ ${PIPESTATUS[0]} -eq 0 && -e $out/mine.admitted.o ]] || { not_yet "$name" "$answer does not compile" && return 1; }
    if [[ -s $out/mine.admitted.o.refused ]]; then
        not_yet "$name" "${answer##*/} was not run, since $(cat "$out/mine.admitted.o.refused")" && return 1
    fi
    $MAKE --no-print-directory "$out/mine" 2>&1 | grep -vE '^make'
    [[ ${PIPESTATUS[0]} -eq 0 ]] || { not_yet "$name" "$answer does not link with its check" && return 1; }
    "$out/mine" "$@" ${SEED:+--seed "$SEED"} ${RESULT:+--json "$RESULT"} --picture "$out/touched.png"
}

ready() { # the directory of an exercise that can be run as asked
    local dir
    dir=$(find_exercise "$1") || exit
    [[ $(answer_of "$dir") == *.cu && -z ${CXX17:-} ]] && refuse "$(basename "$dir") is a kernel and needs a C++ compiler"
    [[ ${STEP:-9} =~ ^[1-9]$ ]] || refuse "expected STEP=1 to STEP=9, found STEP=$STEP"
    [[ -z ${SEED:-} || $SEED =~ ^[0-9]{1,19}$ ]] || refuse "expected SEED to be a number of at most 19 digits, found '$SEED'"
    [[ -z ${RESULT:-} ]] || { : >"$RESULT"; } 2>/dev/null || refuse "cannot write the result to RESULT=$RESULT"
    echo "$dir"
}

task_of() { # where it is told what to do
    if [[ ${1##*/} == own ]]; then echo "$1/own.h"; else echo "$1/statement.md"; fi
}

run() { # run N [ARGUMENT...]: the arguments of the judge
    local dir name answer out status number
    dir=$(ready "$1") || exit
    shift
    name=$(basename "$dir") number=${name%%_*}
    answer=$(answer_of "$dir") out=$B/exercises/$name
    if [[ ! -e $answer ]]; then
        cp -n "$dir/stub.${answer##*.}" "$answer" || exit 2
        echo "made $answer: edit this file (make clean keeps it); the task is in $(task_of "$dir")"
    fi
    mkdir -p "$out" && rm -f "$out/mine.admitted.o" || exit 2
    echo "$name"
    judge "$name" "$answer" "$out" "$@" | tee "$out/said"
    status=${PIPESTATUS[0]}
    [[ $status -le 1 ]] || { not_yet "$name" "the check ended $(by_what "$status") before its verdict" | tee -a "$out/said"; }
    echo "$(cksum <"$answer") $(grep -E '^(pass|not yet: )' "$out/said" | tail -n 1 | sed 's/^pass .*/pass/')" >"$dir/mine.verdict"
    [[ $status -eq 0 ]] && return
    status=$(sed -nE '$s/.*\(seed ([0-9]+)\)$/\1/p' "$out/said")
    if [[ $name == own ]]; then
        echo "  again: make own STEP=$3${status:+ SEED=$status}"
    else
        echo "  again: make exercise N=$number${status:+ SEED=$status}     a hint: make hint N=$number"
    fi
    return 1
}

own() { # the first STEP steps of the reader's own MSA, or all
    run own --steps 1 "${STEP:-9}" ${PROMPT:+--prompt "$PROMPT"}
}

hint() {
    local dir shown=0 total
    dir=$(find_exercise "$1") || exit
    [[ -f $dir/mine.hints ]] && read -r shown <"$dir/mine.hints"
    total=$(grep -c '^## ' "$dir/hints.md")
    shown=$((shown < total ? shown + 1 : total))
    awk -v n="$shown" '/^## /{i++} i==n' "$dir/hints.md"
    echo "(hint $shown of $total$([[ $shown -eq $total ]] && echo ": the last$([[ ! -e $dir/solution.md ]] || echo "; the answer is in $dir/solution.md")"))"
    echo "$shown" >"$dir/mine.hints"
}

state() { # of the answer in a directory
    local answer sum size words
    answer=$(answer_of "$1")
    [[ -e $answer ]] || { echo "not begun" && return; }
    [[ -f $1/mine.verdict ]] || { echo "begun" && return; }
    read -r sum size words <"$1/mine.verdict"
    [[ "$sum $size" == "$(cksum <"$answer")" ]] || { echo "changed since it was judged" && return; }
    if [[ $words == pass ]]; then echo "passed"; else echo "$words"; fi
}

progress() {
    local dir words passed=0 all=0
    for dir in "$EX"/[0-9]*/; do
        dir=${dir%/} words=$(state "$dir") all=$((all + 1))
        [[ $words == passed ]] && passed=$((passed + 1))
        printf '  %-20s %-44s %s\n' "$(basename "$dir")" "$(sed -n '1s/^# //p' "$dir/statement.md")" "${words:0:70}"
    done
    echo "$passed of $all passed"
}

cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 2
case ${1:-} in
find) find_exercise "${2:-}" ;;
run | hint | ready) "$1" "${2:-}" ;;
progress | own) "$1" ;;
*) refuse "expected run, hint, ready, find, own or progress, found '${1:-}'" ;;
esac
