#!/bin/sh
# fold_choices PAGE: a page of questions with choices. `+ choice | reason` is right and stands first, `- choice | reason` is
# wrong; each becomes a line that opens and says so, the right one not always first. With ANSWERS=0 only the choices are left.
awk -v answers="${ANSWERS:-1}" '
function flush(    i, one) { # the choices of question n, turned by a number that follows from n
    for (i = 0; i < choices; i++) {
        one = folded[(i + n + int(n / 3)) % choices]
        print one
    }
    choices = 0
}
/^[0-9]+\. / { n = $0 + 0 }
/^   [+-] .* [|] / {
    at = index($0, " | ")
    verdict = substr($0, 4, 1) == "+" ? "Right" : "No"
    choice = substr($0, 6, at - 6)
    folded[choices++] = answers == "0" ? "   - " choice : \
        "   <details class=\"answer\"><summary>" choice "</summary>\n   **" verdict "**: " substr($0, at + 3) "\n   </details>"
    next
}
{ flush(); print }
END { flush() }' "$1"
