#!/bin/sh
# fold_answers PAGE: a chapter, and below each of its questions the answer of answers/PAGE, folded. [[name]] in an answer
# is the value that its program printed below that name (answers/*.out), so that no number of it is typed. With ANSWERS=0
# in the environment the chapter without these and without the answers that it folds itself, for a class.
answers=$(dirname "$1")/answers/$(basename "$1")
[ "${ANSWERS:-1}" != 0 ] || exec sed '/^<details class="answer">/,/^<\/details>/d' "$1"
[ -e "$answers" ] || exec cat "$1"
values=${answers%.md}.out
[ -e "$values" ] || values=/dev/null
awk -v values="$values" -v answers="$answers" '
function fail(what) { print what > "/dev/stderr"; failed = 1; exit 1 }
function filled(line,    name) { # with each [[name]] replaced
    while (match(line, /\[\[[a-z0-9_]+\]\]/)) {
        name = substr(line, RSTART + 2, RLENGTH - 4)
        if (!(name in value)) fail(answers ": expected a value of " name " in " values ", found none")
        line = substr(line, 1, RSTART - 1) value[name] substr(line, RSTART + RLENGTH)
    }
    return line
}
function fold() { # the answer to question n, if one is open
    if (n && !(n in answer)) fail(answers ": expected an answer to question " n ", found none")
    if (n) printf "   <details class=\"answer\"><summary>Answer %d</summary>\n  %s\n   </details>\n", n, answer[n]
    n = 0
}
BEGIN {
    while ((getline line < values) > 0) { name = line; sub(/ .*/, "", name); sub(/^[^ ]+ +/, "", line); value[name] = line }
    while ((getline line < answers) > 0) {
        if (match(line, /^[0-9]+\. /)) { at = line + 0; line = substr(line, RLENGTH + 1) }
        sub(/^ +/, "", line)
        if (at && line != "") answer[at] = answer[at] " " filled(line) # one line: a value at the left might look like a list
    }
}
/^## / { inside = $0 == "## Exercises" }
inside && (/^[0-9]+\. / || /^$/ || /^## /) { fold() }
inside && /^[0-9]+\. / { n = $0 + 0 }
{ print }
END { if (!failed) fold(); exit failed }' "$1"
