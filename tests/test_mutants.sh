#!/usr/bin/env bash
# That the mutants of tests/mutants still fit the code (whether the tests catch them takes hours: make test-mutants),
# and that they go on fitting it when code is moved, laid out otherwise, or names its variables otherwise.
source "$(dirname "$0")/support/tap.sh"
if ! command -v perl > /dev/null; then
    skip "mutants" "no perl here"
    finish
fi

apply() { # apply TREE NAME: every mutant of both lists, to the code of TREE
    local list
    for list in code kernels; do
        APPLY=1 "$1/tests/mutants/$list.sh" > "$W.out"
        check $? "$2: $list.sh, $(sed -n 's/.* - //p' "$W.out")"
    done
}
apply . "the code as it is"

# Everything in one folder under other names, a line for every part of a statement, and every variable renamed that a
# mutant knows as one: it writes $x, and x nowhere.
moved=0
mkdir -p "$W/tree/ref/moved" "$W/tree/tests"
cp -r tests/mutants tests/support "$W/tree/tests/"
sed -nE "s/^(mutant|kernel) '[^']*' //p" tests/mutants/*.sh | grep -oE '\$?\b[[:alpha:]_]\w*' | sort -u > "$W/words"
sed -n 's/^\$//p' "$W/words" | grep -vxFf <(grep -v '^\$' "$W/words") > "$W/variables"
while IFS= read -r file; do
    moved=$((moved + 1))
    cp "$file" "$W/tree/ref/moved/$moved.${file##*.}"
done < <(find ref cuda -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh')
sed -Ei "/[\"'#]|\\/\\//!s/[(,;]/&\n/g; s/\\b($(paste -sd '|' "$W/variables"))\\b/other_\\1/g" "$W"/tree/ref/moved/*
[[ $(wc -l < "$W/variables") -gt 40 ]]
check $? "$(wc -l < "$W/variables") names of variables that may change"
apply "$W/tree" "moved, laid out otherwise, variables renamed"
sed -i 's/\bsoftmax_weigh\b/softmax_tile/g' "$W"/tree/ref/moved/*
APPLY=1 "$W/tree/tests/mutants/kernels.sh" > "$W.out"
[[ $? -eq 1 ]] && grep -q '^# .*softmax_weigh: no such function in ref/ and cuda/$' "$W.out"
check $? "... and a function renamed is one whose mutants do not"

# ---- What a mutant says ----------------------------------------------------------------------------
mkdir -p "$W"/small/{ref,cuda/deep,out/ref,out/cuda/deep}
cat > "$W/small/ref/a.c" << 'END'
static int sum(const int *x, int n); /* twice(n) { return s += 1; } */
struct part {
    int twice() const { return 2 * n; }
    int half() { return n / 2; }
};
static int sum(const int *x, int n)
{
    int s = 0, last = '"';
    for (int i = 0; i < n; i++) /* s += x[n] */
        s +=  x[i]; // a comment
    return max(min(s, (n)), 0) + twice(s) + x->of.n % 3;
}
END
printf 'void sum(int y)\n{\n    f<g<y>>(y << 1);\n}\n' > "$W/small/cuda/deep/b.cu"
MUTATE=$PWD/tests/mutants/mutate.pl
fault() { # fault NAME EXPECTED LABEL WHAT INSTEAD...: the lines that have changed, or the one that says why none has
    cp -r "$W"/small/{ref,cuda} "$W/small/out/"
    (cd "$W/small" && "$MUTATE" out "${@:3}" 2>&1; for x in ref cuda; do diff -r "$x" "out/$x"; done) |
        sed -n 's/^> *//p; /^[a-z]*: /p' > "$W.out"
    [[ $(< "$W.out") == "$2" ]]
    check $? "$1"
}
fault "all else in the file stays" 's =  x[i]; // a comment' sum '$a+=' '$a ='
fault "one function of several with that name" 'f<g<y>>(y << 2);' sum '$a<<1' '$a << 2'
fault "a template's end is no shift" 'f<h<y>>(y << 1);' sum 'f<g<$y>>' 'f<h<$y>>'
fault "a method" 'int twice() const { return 3 * n; }' twice '2 * $n' '3 * $n'
fault "members belong to a name" 'return max(min(s, (n)), 0) + twice(s) + x->of.n;' sum '$n % 3' '$n'
fault "what brackets hold" 'return max(s , ( n ) , 0) + twice(s) + x->of.n % 3;' sum 'min(...)' '...'
fault "several changes, a name in all of them the same" \
    $'s =  x[i]; // a comment\nreturn max(min(s, (n)), 0) + s + x->of.n % 3;' sum '$s += $x[$i]' '$s =  $x[$i]' 'twice($s)' '$s'
fault "several functions" \
    $'int twice() const { return 1 + 2 * n; }\nint half() { return 1 + n / 2; }' 'twice half' 'return' 'return 1 +'
fault "nothing there" "sum: 'x[n]' matches 0 times" sum 'x[n]' 'x[0]'
fault "twice there" "sum: 'int \$a = 0' matches 2 times: ref/a.c:8 ref/a.c:9" sum 'int $a = 0' 'int $a = 1'
fault "no such function, but a declaration, a comment and a call" "max: no such function in ref/ and cuda/" max 'n' '0'
fault "what is not in it" "sum: 'x[\$j]' takes up what 'x[\$i]' has not" sum 'x[$i]' 'x[$j]'
fault "nothing changed" "sum: 's+=\$x s +=  \$x' changes nothing" sum 's+=$x' 's +=  $x'
fault "one place changed twice" \
    "sum: 'x[\$i] x[0] \$s += x \$s = x' changes something twice" sum 'x[$i]' 'x[0]' '$s += x' '$s = x'
finish
