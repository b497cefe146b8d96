#!/bin/sh
# What doxygen reads of a page: $x$ and $$x$$ become its formulas, a chapter gets the answers to its questions
# (fold_answers.sh), links to its exercises and to its neighbours in reading order (that of the file names). `@TABLE FILE TEXT@` becomes the first table of a generated
# FILE, seen from here, below a line that holds TEXT, so that no number of it is written down twice.
# `@TABLE FILE TEXT~ROW~NAME,NAME@` takes the rows that hold ROW, and the columns of these names. `@TIMES 1 2 10b@`
# becomes what these chapters take (times.sh): "1 h 10 min to read, 2 h of exercises".
export LC_ALL=C # 10_machine.md before 10b_tiles.md
site=$(cd "$(dirname "$0")" && pwd)
cd "$(dirname "$1")" || exit 1
name=$(basename "$1")
case $name in
[0-9][0-9]*_*)
    before=$(ls [0-9][0-9]*_*.md | sed -n "/^$name\$/q;p" | tail -n 1)
    after=$(ls [0-9][0-9]*_*.md | sed "1,/^$name\$/d" | head -n 1)
    ;;
index.md) after=$(ls [0-9][0-9]*_*.md | head -n 1) ;;
esac
title() { sed -n '1s/^# *\(.*[^ ]\) *{#.*/\1/p' "$1"; }
label() { sed -n '1s/.*{#\(.*\)}.*/\1/p' "$1"; }
case $name in [0-9][0-9]*_*) exercises=$("$site/list_exercises.sh" "$(echo "$name" | sed 's/_.*//; s/^0//')") ;; esac
export exercises
case $name in check_*) fold=fold_choices.sh ;; *) fold=fold_answers.sh ;; esac
page=$("$site/$fold" "$name") || exit 1 # with the answers below the questions
printf '%s\n' "$page" | awk -v page="$name" -v site="$site" '
$0 == "## Sources" && ENVIRON["exercises"] != "" { print ENVIRON["exercises"] "\n" } # they end the section before
/^```/ { code = !code }
!code && /^!\[.*\]\((\.\.\/)?figures\/.*\)$/ { # doxygen would make an SVG an <object> without an alternative text
    alt = $0; sub(/^!\[/, "", alt); sub(/\]\([^]]*$/, "", alt)
    src = $0; sub(/.*\//, "", src); sub(/\)$/, "", src) # build.sh puts all figures beside the pages
    print "\\htmlonly <div class=\"image\"><img src=\"" src "\" alt=\"" alt "\"/></div> \\endhtmlonly"
    next
}
!code && !/^    / {
    gsub(/Softmax/, "%Softmax"); sub(/^- [*][*]Tile/, "- **%Tile") # words here, structs in cuda/
    while (match($0, /@ref ch0*[0-9]+b?/) && substr($0, RSTART - 2, 2) != "- ") { # in a sentence: "chapter 3"
        label = substr($0, RSTART + 5, RLENGTH - 5); number = label; sub(/ch0*/, "", number)
        $0 = substr($0, 1, RSTART - 1) "@REF " label " \"chapter " number "\"" substr($0, RSTART + RLENGTH)
    }
    gsub(/@REF/, "@ref")
    if ($0 == "$$") { print (display = !display) ? "\\f[" : "\\f]"; next }
    out = ""; rest = $0; inside = 0
    while ((at = index(rest, "$")) > 0) {
        out = out substr(rest, 1, at - 1) (display ? "$" : "\\f$")
        inside = !inside
        rest = substr(rest, at + 1)
    }
    $0 = out rest
    if (inside) { print page ": a lone $ in line " NR > "/dev/stderr"; exit 1 }
}
function span(minutes,    step, hours) { # to 10 minutes, or half hours
    step = minutes < 120 ? 10 : 30
    minutes = step * int(minutes / step + 0.5); hours = int(minutes / 60); minutes -= 60 * hours
    return (hours ? hours " h" : "") (hours && minutes ? " " : "") (minutes || !hours ? minutes " min" : "")
}
/@TIMES [0-9b ]+@/ {
    match($0, /@TIMES [0-9b ]+@/)
    command = site "/times.sh " substr($0, RSTART + 7, RLENGTH - 8)
    if ((command | getline entry) < 1 || split(entry, sum, " ") != 2) { print page ": no times" > "/dev/stderr"; exit 1 }
    close(command)
    $0 = substr($0, 1, RSTART - 1) span(sum[1]) " to read, " span(sum[2]) " of exercises" substr($0, RSTART + RLENGTH)
}
/^\\snippet / { # of which file, for link_listings.js
    split("examples/ ../ref/ ../", folder, " ")
    for (i = 1; i <= 3; i++) {
        file = folder[i] $2
        if ((getline entry < file) >= 0) { close(file); break }
    }
    sub(/^\.\.\//, "", file); sub(/^examples/, "book/examples", file)
    print "\\htmlonly[block]<!-- listing " file " -->\\endhtmlonly"
}
/^@PART [0-9]+ [0-9]+ .*@$/ { # the chapters that are there, below the name of their part
    heading = $0; sub(/^@PART [0-9]+ [0-9]+ /, "", heading); sub(/@$/, "", heading); begun = 0
    first = $2 + 0; last = $3 + 0; command = "sed -sn 1p [0-9][0-9]*_*.md"
    while ((command | getline entry) > 0) {
        sub(/.*[{]#/, "", entry); sub(/[}].*/, "", entry); number = substr(entry, 3) + 0
        if (number < first || number > last) continue
        if (!begun++) print "\n### " heading "\n"
        print "- @ref " entry
    }
    close(command)
    next
}
/^@TABLE [^ ]+ .*@$/ {
    file = $2; sub(/^@TABLE [^ ]+ /, ""); sub(/@$/, "")
    parts = split($0, part, "~"); columns = parts > 2 ? split(part[3], name, ",") : 0; split("", place)
    for (line = printed = found = 0; (getline entry < file) > 0 && (line == 0 || entry ~ /^[|]/);) {
        found = found || index(entry, part[1])
        if (!found || entry !~ /^[|]/) continue
        if (++line > 2 && parts > 1 && !index(entry, part[2])) continue # the first two are its head
        cells = split(entry, cell, "|"); printed++
        for (c = 1; line == 1 && c <= cells; c++) { plain = cell[c]; gsub(/^ +| +$/, "", plain); place[plain] = c }
        for (c = 1; c <= columns; c++) {
            if (!(name[c] in place)) { print page ": " file " has no column " name[c] > "/dev/stderr"; exit 1 }
            printf "|%s", cell[place[name[c]]]
        }
        print columns ? "|" : entry
    }
    close(file)
    if (printed < 3) { print page ": no such table in " file ": " part[1] > "/dev/stderr"; exit 1 }
    next
}
{ print }' || exit 1
[ -n "${before:-}${after:-}" ] || exit 0
echo
echo '<div class="turn">'
echo "<span>${before:+← @ref $(label "$before") \"$(title "$before")\"}</span>"
echo "<span>@ref mainpage_link_contents</span>" | sed 's/@ref mainpage_link_contents/<a href="index.html">Contents<\/a>/'
echo "<span>${after:+@ref $(label "$after") \"$(title "$after")\" →}</span>"
echo '</div>'
