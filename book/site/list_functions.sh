#!/usr/bin/env bash
# The page of all functions that a kernel may call, made of the comments above them: list_functions.sh > PAGE.md. A
# function without a comment of its own belongs to the one right above it; one that has neither ends this with status 1.
set -u
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 2

cat << 'END'
# What a kernel may call {#sheet}

Every instruction of the machine that C has no word for is a function here, on the GPU one instruction, on the engine a body that checks
and counts. This page is made of the comments above them. @ref ch10 explains a handful; the others are met where they are used.
`SITE`, which these functions have in the sources, is the caller's line; you never write it.

END
# A section's title, the comment lines in front of a function, its head; a head may come in two lines.
for file in cuda/kit/launch.cuh cuda/kit/ptx.cuh cuda/kit/fragment.cuh cuda/kit/kernel.cuh; do
    awk -v file="$file" '
    function flush() { if (calls != "") { if (!table++) print "| call | what it does |\n|:--|:--|"; print "| " calls " | " doc " |" } calls = "" }
    function call(head,  list) { # "template <class T> PTX_NAMED T ld_shared(const T *p SITE)" becomes `T ld_shared(const T *p)`
        sub(/ *\/\/\/<.*/, "", head); sub(/ONLY_SITE\)/, ")", head); sub(/ *SITE\)/, ")", head)
        gsub(/(PTX_INLINE|PTX_NAMED|MSA_BOTH_SIDES|constexpr|static|inline) /, "", head); sub(/ = ~0u/, "", head)
        if (sub(/^template <class T> /, "", head)) sub(/\(\)/, "<T>()", head)
        if (match(head, /^template <[^>]*> /)) {
            list = substr(head, 11, RLENGTH - 11); head = substr(head, RLENGTH + 1)
            gsub(/int | = 0/, "", list); sub(/\(/, "<" list "(", head)
        }
        sub(/^void /, "", head)
        return "`" head "`"
    }
    BEGIN { title = file ~ /launch/ ? "Shared memory" : file ~ /fragment/ ? "Which element a register holds" : "" }
    /^\/\* ---- .* -/ { flush(); sub(/^\/\* ---- /, ""); sub(/ -.*/, ""); title = $0; table = fresh = 0; next }
    /^\/\/\/ / { if (!fresh) { flush(); doc = "" } fresh = 1; sub(/^\/\/\/ /, ""); doc = doc (doc == "" ? "" : " ") $0; next }
    /^$/ { fresh = 0; if (calls != "") flush(); doc = ""; next }
    /^template <.*>$/ { template = $0; next }
    /^(template.*)?(PTX_INLINE|PTX_NAMED|MSA_BOTH_SIDES) / || part {
        head = part ? part " " $0 : (template == "" ? "" : template " ") $0
        sub(/  +/, " ", head); template = ""; part = ""
        if (head !~ /\)/) { part = head; next }
        if (match(head, /\/\/\/< .*/)) own = substr(head, RSTART + 5); else own = ""
        if (own != "") { flush(); doc = own }
        if (doc == "") { print file ":" FNR ": expected a comment above this function" > "/dev/stderr"; failed = 1 }
        if (title != "" && !(title in said)) { print "\n## " title "\n"; said[title] = 1; table = 0 }
        calls = calls (calls == "" ? "" : "<br/>") call(head); fresh = 0; template = ""
        next
    }
    /^[a-zA-Z#}]/ { fresh = 0; template = "" } # something else, to which the comment belongs
    /^[a-zA-Z#]/ { flush(); doc = "" }
    END { flush(); exit failed }' "$file" || exit 1
done
