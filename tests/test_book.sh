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

# Minutes to read and of exercises, a path a line: of the page and of the README, which need not follow every new exercise.
minutes() {
    grep -oE '[0-9][^|]* to read, [^|]* of exercises' "$1" | sed -E 's/([0-9]+) h/60 * \1 +/g; s/([0-9]+) min/\1/g; s/ to read,/ ,/; s/\+ +,/+ 0 ,/; s/ of exercises//; s/\+ *$/+ 0/' |
        tr ',' '\n' | while read -r sum; do echo $((sum)); done
}
book/site/filter_page.sh book/index.md > "$W/paths"
paste <(minutes "$W/paths") <(minutes README.md) > "$W.out"
awk 'NF != 2 || $1 < 0.8 * $2 || $1 > 1.25 * $2 { bad = 1 } END { exit bad || NR != 8 }' "$W.out"
check $? "the README's paths take about as long as the book's"
[[ $(data/pair.sh --sum) == *"msa 1.8841, twin 1.8749, difference +0.49 +- 0.37 %"*"40 windows: +- 0.88 %" ]] && grep -q '+0.49 ± 0.37 %' README.md && grep -q '+0.49 \\pm 0.37' book/18_found.md
check $? "what the twins' windows say is what README and chapter 18 say"
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
# Links of listings: what a name means there stays, a local name and a namesake in another file do not.
cat > "$W/tags" << 'XML'
<compound kind="file"><name>internal.h</name><path>ref/</path><filename>internal_8h.html</filename>
<member kind="function" static="yes"><name>dot</name><anchorfile>internal_8h.html</anchorfile><anchor>a1</anchor></member></compound>
<compound kind="file"><name>kernel.cuh</name><path>cuda/kit/</path><filename>kernel_8cuh.html</filename>
<member kind="function"><name>scale</name><anchorfile>kernel_8cuh.html</anchorfile><anchor>a2</anchor></member></compound>
<compound kind="file"><name>decode.c</name><path>ref/</path><filename>decode_8c.html</filename>
<member kind="function" static="yes"><name>dot</name><anchorfile>decode_8c.html</anchorfile><anchor>a3</anchor></member></compound>
XML
link() { echo "<a class=\"$1\" href=\"$2\">$3</a>"; }
listing="double $(link code kernel_8cuh.html#a2 scale) = $(link code internal_8h.html#a1 dot)(q), $(link code decode_8c.html#a3 dot)(k), $(link code internal_8h.html#a1 dot);"
echo "<!-- listing ref/dense.c --> <div class=\"fragment\"><div class=\"line\">$listing</div></div><!-- fragment --> $(link el decode_8c.html#a3 'dot()')" > "$W/page.html"
node book/site/link_listings.js "$W/tags" --count "$W/page.html" > "$W.out"
[[ $? -eq 1 ]] && grep -q ' 1 links, 4 wrong' "$W.out"
check $? "wrong links of a listing are counted"
node book/site/link_listings.js "$W/tags" "$W/page.html" > "$W.out" && [[ $(grep -o '<a [^>]*>[^<]*' "$W/page.html") == "$(link code internal_8h.html#a1 dot | sed 's,</a>,,')" ]]
check $? "and taken away, the right one left"

mkdir "$W/site"
book/site/build.sh "$W/site" > "$W.out" 2> "$W.err" # with check_links and check_pages
check $? "the site builds; its links and pages pass"
grep -qE 'listings: [1-9][0-9]+ links, 0 wrong' "$W.out" && ! grep -hoE '<a class="code[^>]*>(scale|attend|max|sum|width|key)</a>' "$W/site/book"/ch[01]*.html > "$W.out"
check $? "listings link what they mean, and no local name"
for page in index check1 check2 check3 check4 exercises sheet teacher notation glossary bibliography $(sed -sn '1s/.*{#\(ch[0-9]*b*\)}.*/\1/p' book/[0-9]*.md); do
    [[ -s $W/site/book/$page.html ]] || { echo "no $page.html" > "$W.err"; false; } || break
done
check $? "every page is there"
finish
