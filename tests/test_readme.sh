#!/usr/bin/env bash
# The README's promises: `make install` gives a library that its C example links against, the example prints
# what the README says it prints, every file and make target it names is there, and so is every command.
source "$(dirname "$0")/support/tap.sh"
B=${B:-build} CC=${CC:-cc}

# The fenced block number $2 of kind $1.
block() { awk -v kind="$1" -v want="$2" '/^```/ { if (on) exit; if ($0 == "```" kind && ++k == want) { on = 1; next } } on' README.md; }

make --no-print-directory install DEPS=0 B="$B" PREFIX="$W/usr" > "$W.out" 2>&1
check $? "make install PREFIX=..."
for name in ref/stages.def:include/msa_stages.def "$B/libmsa.a:lib/libmsa.a" "$B/msa:bin/msa"; do
    cmp -s "${name%%:*}" "$W/usr/${name#*:}"
    check $? "... installs ${name#*:}"
done
flags() { PKG_CONFIG_PATH=$W/usr/lib/pkgconfig pkg-config "$@" msa; }
block c 1 > "$W/example.c"
[[ -s $W/example.c ]]
check $? "the README has an example in C"
if command -v pkg-config > /dev/null; then
    san=$(sed -n 's/.*\(-fsanitize=[^ ]*\).*/\1/p' "$B/flags")
    $CC -std=c11 -Wall -Wextra -Wpedantic $san "$W/example.c" $(flags --cflags --libs) -o "$W/shared" 2> "$W.err" &&
        LD_LIBRARY_PATH=$W/usr/lib "$W/shared" > "$W/out"
    check $? "it builds and runs against the shared library"
    block text 2 | diff - "$W/out" > "$W.out"
    check $? "it prints what the README shows"
    $CC -std=c11 $san "$W/example.c" $(flags --cflags) "$W/usr/lib/libmsa.a" $(flags --static --libs | sed 's/-lmsa//') \
        -o "$W/static" 2> "$W.err" && "$W/static" | cmp -s - "$W/out"
    check $? "and against the static library"
    [[ $("$W/usr/bin/msa" version) == "msa $(flags --modversion)" ]]
    check $? "the program and pkg-config agree on the version"
else
    skip "building the example" "no pkg-config here"
fi
nm -D --defined-only "$W/usr/lib/libmsa.so" | awk '$2 ~ /[TDRB]/ { print $3 }' | grep -v '^msa_' > "$W/foreign"
[[ ! -s $W/foreign ]]
check $? "the shared library exports nothing but msa_*"

if "$MSA" results > /dev/null 2>&1; then
    data/bench/report.sh "$MSA" 2> "$W.err"
    check $? "its tables are those of data/bench"
else
    skip "its tables are those of data/bench" "no jansson here"
fi

missing=
for file in $(grep -oE '\]\([a-zA-Z][^):]*\)' README.md | tr -d '()]'); do [[ -e $file ]] || missing+=" $file"; done
[[ -z $missing ]]
check $? "every file it links to exists$missing"
sed -n '/^## The map/,/^## /p' README.md > "$W/map"
missing=
for room in */ .ci/ ref/*/ cuda/*/ tests/*/; do
    room=$(basename "$room")
    [[ $room == build || $room == __pycache__ ]] || grep -qF "$room/" "$W/map" || missing+=" $room"
done
[[ -z $missing ]]
check $? "its map names every room$missing"
missing=
for target in $(grep -oE '\bmake [a-z][a-z-]*' README.md | sort -u | cut -d ' ' -f 2); do grep -q "^$target:" Makefile book/book.mk book/exercises/exercises.mk || missing+=" $target"; done
[[ -z $missing ]]
check $? "every make target it names exists$missing"
missing=
for command in $(grep -oE 'build/msa [a-z]+' README.md | sort -u | cut -d ' ' -f 2); do "$MSA" help "$command" > "$W/out" 2>&1 || missing+=" $command"; done
[[ -z $missing ]]
check $? "every command it names exists$missing"
finish
