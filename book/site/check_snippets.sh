#!/usr/bin/env bash
# Every \snippet of a page names a file and a label that are there, twice each: where it begins and ends.
set -u
cd "$(dirname "$0")/../.." || exit 2
status=0
while IFS=: read -r page line directive; do
    read -r _ file label <<< "$directive"
    for path in book/examples/$file ref/$file $file; do [[ -f $path ]] && break; done
    if [[ ! -f $path ]]; then
        echo "$page:$line: expected the file $file, found none" >&2 && status=1
    elif [[ -n $label && $(grep -cF "[$label]" "$path") -ne 2 ]]; then
        echo "$page:$line: expected the label [$label] twice in $path, found $(grep -cF "[$label]" "$path")" >&2 && status=1
    fi
done < <(grep -nE '^[\\@](snippet|include|verbinclude)' book/*.md /dev/null)
exit $status
