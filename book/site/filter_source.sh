#!/bin/sh
# What doxygen reads of a C or CUDA file. The project's comments are plain ones above what they describe; here
#   /* at the start of a line   becomes a documentation comment, the first of the file that of the file;
#   msa_dense_fn msa_dense;     becomes the prototype that the function type spells out, documented by it;
#   [label] comments            go: they only mark snippets.
# The number of lines stays the same, so that links to sources hit.
exec awk '
function safe(s) { gsub(/\\/, "\\\\\\\\", s); gsub(/[<@#]/, "\\\\&", s); return s }
/^ *\/[*\/] \[[a-z_0-9]+\]( \*\/)?$/ { print ""; next }
/^\/\* --/ { print ""; next } # a banner
/^\/\* / {
    text = substr($0, 4)
    if (NR == 1) { print "/** @file"; text = " * " safe(text); print text; owed = 1 }
    else print "/** " safe(text)
    plain = text !~ /\*\/ *$/
    next
}
plain {
    done = /\*\//
    if (owed && ($0 == " *" || $0 == "")) owed = 0
    else print safe($0)
    if (done) plain = 0
    next
}
owed && ($0 == "" || /^#include/) { owed = 0; next }
/^typedef msa_status msa_[a-z]*_fn\(/ { name = $3; sub(/\(.*/, "", name); args = ""; on = 1 }
on {
    line = $0; sub(/^typedef msa_status msa_[a-z]*_fn/, "", line); args = args " " line
    if (line ~ /;/) { sub(/;.*/, "", args); arguments[name] = args; on = 0 }
}
/^msa_[a-z]*_fn msa_[a-z0-9_]*;/ {
    fn = $2; sub(/;.*/, "", fn)
    print "/** @copydoc " $1 " */ msa_status " fn arguments[$1] ";"
    next
}
{ gsub(/file:line/, "file, line") } # doxygen would take that for an address
{ print }' "$1"
