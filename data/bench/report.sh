#!/usr/bin/env bash
# results.sh MSA: whether README.md holds the tables that `msa results` prints of data/bench. With --store,
# puts them there, between the lines <!-- results --> and <!-- end of results -->.
set -u
export LC_ALL=C
cd "$(dirname "$0")/../.." || exit 2
msa=$1 store=${2:-}
new=$(mktemp) || exit 2
trap 'rm -f "$new" "$new.tables"' EXIT
files=(data/bench/*.json)
if [[ -e ${files[0]} ]]; then
    "$msa" results "${files[@]}" > "$new.tables" || exit 2
else
    printf 'None yet: `make gpu` on a machine with a Hopper GPU writes `data/bench/*.json`.\n\n' > "$new.tables"
fi
awk -v tables="$new.tables" '
    $0 == "<!-- end of results -->" { skip = 0 }
    !skip { print }
    $0 == "<!-- results -->" { skip = 1; while ((getline line < tables) > 0) print line }' README.md > "$new"
if [[ $store == --store ]]; then
    cmp -s "$new" README.md || cp "$new" README.md
elif ! cmp -s "$new" README.md; then
    echo "README.md: expected the tables of data/bench ('make results' puts them there), found others" >&2
    exit 1
fi
