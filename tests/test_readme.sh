#!/usr/bin/env bash
# The README's promises: `make install` gives a library that its C example links against, the example prints
# what the README says it prints, every file and make target it names is there, and so is every command.
set -u
B=${B:-build} CC=${CC:-cc} msa=${MSA:-build/msa}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
n=0 failed=0
check() {
    n=$((n + 1))
    if [[ $1 -eq 0 ]]; then echo "ok $n - $2"; else echo "not ok $n - $2"; failed=1; fi
}

# The fenced block number $2 of kind $1.
block() { awk -v kind="$1" -v want="$2" '/^```/ { if (on) exit; if ($0 == "```" kind && ++k == want) { on = 1; next } } on' README.md; }

make --no-print-directory install DEPS=0 B="$B" PREFIX="$work/usr" > "$work/log" 2>&1
check $? "make install PREFIX=..."
flags() { PKG_CONFIG_PATH=$work/usr/lib/pkgconfig pkg-config "$@" msa; }
block c 1 > "$work/example.c"
[[ -s $work/example.c ]]
check $? "the README has an example in C"
san=$(sed -n 's/.*\(-fsanitize=[^ ]*\).*/\1/p' "$B/flags")
$CC -std=c11 -Wall -Wextra -Wpedantic $san "$work/example.c" $(flags --cflags --libs) -o "$work/shared" 2> "$work/log" &&
    LD_LIBRARY_PATH=$work/usr/lib "$work/shared" > "$work/out"
check $? "it builds and runs against the shared library"
block text 2 | diff - "$work/out" > "$work/log"
check $? "it prints what the README shows"
$CC -std=c11 $san "$work/example.c" $(flags --cflags) "$work/usr/lib/libmsa.a" $(flags --static --libs | sed 's/-lmsa//') \
    -o "$work/static" 2> "$work/log" && "$work/static" | cmp -s - "$work/out"
check $? "and against the static library"
[[ $("$work/usr/bin/msa" version) == "msa $(flags --modversion)" ]]
check $? "the program and pkg-config agree on the version"
nm -D --defined-only "$work/usr/lib/libmsa.so" | awk '$2 ~ /[TDRB]/ { print $3 }' | grep -v '^msa_' > "$work/foreign"
[[ ! -s $work/foreign ]]
check $? "the shared library exports nothing but msa_*"

missing=
for file in $(grep -oE '\]\([a-zA-Z][^):]*\)' README.md | tr -d '()]'); do [[ -e $file ]] || missing+=" $file"; done
[[ -z $missing ]]
check $? "every file it links to exists$missing"
missing=
for target in $(grep -oE '\bmake [a-z][a-z-]*' README.md | sort -u | cut -d ' ' -f 2); do grep -q "^$target:" Makefile || missing+=" $target"; done
[[ -z $missing ]]
check $? "every make target it names exists$missing"
missing=
for command in $(grep -oE 'build/msa [a-z]+' README.md | sort -u | cut -d ' ' -f 2); do "$msa" help "$command" > "$work/out" 2>&1 || missing+=" $command"; done
[[ -z $missing ]]
check $? "every command it names exists$missing"
echo "1..$n"
exit $failed
