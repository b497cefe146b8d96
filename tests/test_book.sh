#!/usr/bin/env bash
# The book: every chapter's program prints its stored output and every figure is what its program draws; listings
# come from labels that are there; programs compile without a warning; and, where doxygen, the theme, node and
# katex are, the site builds, and its links and pages pass their checks.
source "$(dirname "$0")/support/tap.sh"
B=${B:-build} CC=${CC:-cc}

book/site/check_chapters.sh "$B" > "$W.out" 2> "$W.err"
check $? "outputs and figures of all chapters are what their programs print"
book/site/check_snippets.sh > "$W.out" 2> "$W.err"
check $? "every listing names a file and a label that are there"

for page in book/[0-9][0-9]*_*.md; do
    name=$(basename "$page" .md)
    missing=
    for file in "examples/$name.c" "examples/$name.out" "figures/$name.c" "figures/$name.svg"; do
        [[ -s book/$file ]] || missing+=" $file"
    done
    [[ -z $missing ]] &&
        $CC -std=c11 -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wstrict-prototypes -Werror -Wno-unknown-pragmas \
            -D_POSIX_C_SOURCE=200809L -Iref -fsyntax-only "book/examples/$name.c" "book/figures/$name.c" > "$W.out" 2> "$W.err"
    check $? "$name: program, output and figure, without a warning$missing"
done

# Every question has an answer, and an answer's numbers are printed by a program.
book/site/check_answers.sh > "$W.out" 2> "$W.err"
check $? "every question has an answer, every number of one a program"
for file in book/answers/*.c; do
    $CC -std=c11 -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wstrict-prototypes -Werror -Wno-unknown-pragmas \
        -D_POSIX_C_SOURCE=200809L -Iref -fsyntax-only "$file" > "$W.out" 2> "$W.err" || break
done
check $? "programs of answers, without a warning"
broken() { # broken WHAT SED-SCRIPT FILE: a book whose FILE is changed so is refused
    rm -rf "$W/book" && mkdir "$W/book" && cp -r book/*.md book/answers book/examples "$W/book" && sed -i "$2" "$W/book/$3"
    ! book/site/check_answers.sh "$W/book" > "$W.out" 2> "$W.err" && grep -q "$(basename "$3" .md)" "$W.err"
    check $? "$1 is refused"
}
broken "a question without an answer" 's/^5\. .*/5. What else?\n6. Nothing more?/' 01_attention.md
broken "an answer that is missing" '/^2\. /,/^3\. /d' answers/01_attention.md
broken "a value that no program prints" 's/\[\[miss\]\]/[[missed]]/' answers/01_attention.md
broken "a number that was typed" 's/\[\[miss\]\]/0.79/' answers/01_attention.md
[[ $(book/site/filter_page.sh book/01_attention.md | grep -c '<summary>Answer [1-5]<') -eq 5 ]]
check $? "answers are folded in the page"
[[ $(ANSWERS=0 book/site/filter_page.sh book/01_attention.md | grep -c '<details') -eq 0 ]]
check $? "ANSWERS=0 leaves them out"

broken "a check without a right choice" '0,/^   + /s//   - /' check_2.md
[[ $(book/site/filter_page.sh book/check_1.md | grep -c '<details') -eq 30 && $(ANSWERS=0 book/site/filter_page.sh book/check_1.md | grep -c '<details') -eq 0 ]]
check $? "three choices a question, folded or bare"

# A page that takes tables of another.
printf '## One\n| a | b |\n|--|--|\n| 1 | 2 |\n| 3 | 4 |\n\n| c |\n' > "$W/tables.md"
page() { printf '%s\n' "$1" > "$W/page.md" && book/site/filter_page.sh "$W/page.md" 2> "$W.err"; }
[[ $(page '@TABLE tables.md ## One~3~b,a@') == "| b | a |"$'\n'"|--|--|"$'\n'"| 4 | 3 |" ]]
check $? "rows and columns of a table of another file"
for bad in '## Two' '## One~5' '## One~3~c'; do
    ! page "@TABLE tables.md $bad@" > "$W.out" && [[ $(wc -l < "$W.err") -eq 1 ]]
    check $? "no table '$bad', and one line says so"
done

[[ $(book/site/list_exercises.sh | grep -c '^## ') -eq $(ls -d book/exercises/[0-9]*/ | wc -l) ]]
check $? "the page of exercises has all of them"
# The sheet of what a kernel may call.
book/site/list_functions.sh > "$W/sheet.md" 2> "$W.err" &&
    for name in $(cat cuda/kit/{ptx,launch,fragment}.cuh | grep -oE '^(template <.*> )?(PTX_INLINE|PTX_NAMED|MSA_BOTH_SIDES constexpr) [^(]*\(' | grep -oE '\w+\($'); do
        grep -qF "$name" "$W/sheet.md" || { echo "no $name" > "$W.err"; false; } || break
    done
check $? "the sheet has every function of ptx.cuh, launch.cuh and fragment.cuh"
mkdir -p "$W/kit/book/site" "$W/kit/cuda/kit" && cp book/site/list_functions.sh "$W/kit/book/site" && cp cuda/kit/*.cuh "$W/kit/cuda/kit"
sed -i '/^\/\/\/ Expects `bytes` more/d' "$W/kit/cuda/kit/ptx.cuh"
! "$W/kit/book/site/list_functions.sh" > "$W.out" 2> "$W.err" && grep -q 'cuda/kit/ptx.cuh:[0-9]*: expected a comment' "$W.err"
check $? "a function without a comment is refused"

if ! command -v doxygen > /dev/null || ! command -v node > /dev/null ||
    [[ ! -e /usr/share/nodejs/katex/katex.js || ! -e /usr/share/doxygen-awesome-css/doxygen-awesome.css ]]; then
    skip "the site" "doxygen, doxygen-awesome-css, nodejs and katex are not all here (make book-deps)"
    finish
fi
mkdir "$W/site"
book/site/build.sh "$W/site" > "$W.out" 2> "$W.err" # with check_links and check_pages
check $? "the site builds; its links and pages pass"
for page in index check1 check2 check3 check4 exercises sheet teacher notation glossary bibliography $(sed -sn '1s/.*{#\(ch[0-9]*b*\)}.*/\1/p' book/[0-9]*.md); do
    [[ -s $W/site/book/$page.html ]] || { echo "no $page.html" > "$W.err"; false; } || break
done
check $? "every page is there"
finish
