#!/usr/bin/env bash
# The page of all exercises, made of their statements: book/site/list_exercises.sh > PAGE.md. With a chapter's number it
# prints instead one line that links to the exercises of that chapter, or nothing.
set -u
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/../exercises" || exit 2

number() { echo "${1:0:2}"; }
title() { sed -n '1s/^# *//p' "$1/statement.md"; }
about() { sed -n '3s/^\*\(.*\)\*$/\1/p' "$1/statement.md"; } # "Chapter 1, about 15 minutes. Implement a formula."
chapter() { about "$1" | sed -n 's/^Chapter \([0-9]*b\{0,1\}\),.*/\1/p'; }
kind() { if [[ -f $1/stub.cu ]]; then echo kernel; else echo C; fi; }

chapter_line() {
    local dir links=
    for dir in [0-9]*/; do
        dir=${dir%/}
        [[ $(chapter "$dir") == "$1" ]] && links+="${links:+; }@ref ex$(number "$dir") \"$(title "$dir")\" (\`make exercise N=$(number "$dir")\`)"
    done
    [[ -z $links ]] || printf 'With a verdict by the machine: %s.\n' "$links"
}

page() {
    local dir n ref
    cat <<'END'
# Exercises {#exercises}

Each exercise is a file of yours with a hole, a mistake or too much work in it. A check runs it against the reference, counts what it
read or wrote, and says *pass* or *not yet* within seconds. The counts are exact and the same on every machine. Exercises of the kind
*kernel* run on the CPU engine and need a C++ compiler; none needs a GPU.

    make exercise N=01            # makes your copy at the first run, then builds and judges it
    make exercise N=01 SEED=2     # on the inputs of a verdict that said "seed 2"; without SEED each run has other inputs
    make exercise N=01 RESULT=r   # writes verdict, seed and counts to the file r too
    make hint N=01                # the next hint
    make progress                 # all of them, and how far you are
    make own STEP=1               # beside them: an MSA of your own, a step at the end of each of chapters 1 to 9

**How an answer is judged.** It runs in a process of its own, and its judge is another. What it prints is shown with a bar before
it and means nothing; neither does how it ends. The judge looks at the arrays that the answer has written, and at its own counts.
Keys, values and whatever else is counted are not in the answer's memory: `row(k, j, 0)` asks the judge for a row, and the judge
counts; where there are tiles, a machine in the judge's process loads, multiplies and counts. A kernel has its arrays, but an ordinary load or store of them, or of shared memory, is no count, so it ends the run with
its line and with the helper to write. Nor has it any other memory: no static variable, and nothing of another thread's. A count has a bar, and a floor that no answer can do without. An answer may call what its
task gives it, mathematics, `malloc` and `printf`; it cannot reach the reference, files or other processes. It is compiled with
AddressSanitizer and UBSan where these exist (of a kernel, array bounds are checked), so that a crash names its line, and what it
has not set is not zero by luck. A call that takes more than 10
seconds of processor time, or 120 for a kernel, counts as an endless loop; how fast an answer is counts for nothing. "Not yet" is
no error to `make`, whose status is then 0; the script `book/exercises/exercise.sh run N` ends with 1.

**Where an answer stands.** Twelve exercises begin with a naive version and print a table: what the stub takes, what the kernels of the
ladder or other ways take on the same inputs, and what you take, as counts and as shares of the stub.

| | exercise | chapter | kind | minutes |
|--:|:--|:--|:--|--:|
END
    for dir in [0-9]*/; do
        dir=${dir%/} n=$(number "$dir") ref=$(chapter "$dir")
        [[ $ref =~ ^[0-9]b?$ ]] && ref=0$ref
        compgen -G "../${ref}_*.md" > /dev/null && ref="@ref ch$ref" || ref="chapter ${ref#0}"
        echo "| $n | @ref ex$n \"$(title "$dir")\" | $ref | $(kind "$dir") | $(about "$dir" | sed -n 's/.*about \([0-9]*\) minutes.*/\1/p') |"
    done
    for dir in [0-9]*/; do
        dir=${dir%/} n=$(number "$dir")
        printf '\n## %s {#ex%s}\n' "$(title "$dir")" "$n"
        sed 1d "$dir/statement.md"
        printf '\n    make exercise N=%s\n    make hint N=%s\n' "$n" "$n"
    done
}

if [[ $# -gt 0 ]]; then chapter_line "$1"; else page; fi
