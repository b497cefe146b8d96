#!/usr/bin/env bash
# check_chapters BUILD: every chapter's program prints its stored output, so does the one that computes its answers, and
# its figure is what the program beside it draws. With --store, stores what they print instead. A program that ends with status 77 has said
# what it misses here.
set -u
build=$1 store=${2:-}
cd "$(dirname "$0")/../.." || exit 2
status=0 new=$(mktemp)
trap 'rm -f "$new"' EXIT

hold() { # hold PROGRAM FILE
    "$1" > "$new"
    case $? in
    0) ;;
    77) return ;;
    *) echo "$1 failed" >&2 && status=1 && return ;;
    esac
    if [[ $store == --store ]]; then
        cp "$new" "$2"
    else
        diff -u "$2" "$new" >&2 || { echo "$2 is not what $1 prints" >&2 && status=1; }
    fi
}
for page in book/[0-9][0-9]*_*.md; do
    name=$(basename "$page" .md)
    hold "$build/examples/$name" "book/examples/$name.out"
    hold "$build/figures/$name" "book/figures/$name.svg"
done
for program in book/answers/*.c; do
    [[ -e $program ]] || continue
    name=$(basename "$program" .c)
    hold "$build/answers/$name" "book/answers/$name.out"
done
exit $status
