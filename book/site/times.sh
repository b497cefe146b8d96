#!/usr/bin/env bash
# How long the chapters take, in minutes: times.sh prints a line for each, its number, reading, its exercises, and the step of
# the reader's own MSA. times.sh 1 2 10b prints the sums over these chapters, reading and work. Reading goes by
# length and difficulty: 150 words of prose a minute, 2 minutes a displayed formula, 12 lines of a listing and 25 of an
# output a minute, 2 minutes a figure. Exercises take what their statements say.
set -uo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
OWN=30 # minutes of a step of the reader's own MSA

reading() { # reading PAGE
    ANSWERS=0 site/fold_answers.sh "$1" | awk -v page="$1" '
        function lines(file, label,    path, n, inside, line, i) {
            split("examples/" file " ../ref/" file " ../" file, path, " ")
            for (i = 1; i <= 3; i++) {
                while ((getline line < path[i]) > 0) {
                    if (label != "" && index(line, "[" label "]")) inside = !inside
                    else n += label == "" || inside
                }
                close(path[i])
                if (n) return n
            }
            print page ": no lines of " file " " label > "/dev/stderr"
            exit 1
        }
        /^\\snippet/ { code += lines($2, $3); next }
        /^\\(verb)?include/ { output += lines($2, ""); next }
        /^\$\$$/ { formulas += 0.5; next }
        /^!\[/ { figures++; next }
        /^    / { code++; next }
        /^## Sources/ { exit }
        { words += NF }
        END { printf "%d\n", words / 150 + 2 * formulas + code / 12 + output / 25 + 2 * figures + 0.5 }'
}
exercises() { # exercises CHAPTER
    cat exercises/[0-9]*/statement.md | sed -nE "s/^\*Chapter $1, about ([0-9]+) minutes.*/\1/p" | awk '{n += $1} END {print n + 0}'
}
chapters() { # chapters NUMBER...
    local page number own read work
    for number in "$@"; do
        page=$(compgen -G "$(printf '%02d' "${number%b}")${number##*[0-9]}_*.md") || { echo "times.sh: expected the number of a chapter, found $number" >&2 && return 1; }
        own=0 && grep -q '^## Your own MSA' "$page" && own=$OWN
        read=$(reading "$page") && work=$(exercises "$number") || return
        echo "${page%%_*} $read $work $own"
    done
}

if [[ $# -eq 0 ]]; then
    chapters $(printf '%s\n' [0-9]*_*.md | sed -E 's/_.*//; s/^0//')
else
    chapters "$@" | awk '{read += $2; work += $3 + $4} END {if (NR) print read, work}'
fi
