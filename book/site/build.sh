#!/usr/bin/env bash
# Builds the site: book/site/build.sh BUILD writes BUILD/book/index.html and what it needs. The programs' outputs
# and the figures must have been checked (make book does). Reads no network, and neither does what it writes.
set -euo pipefail
build=$1
theme=${BOOK_THEME:-/usr/share/doxygen-awesome-css}
katex=/usr/share/javascript/katex
missing=
command -v doxygen > /dev/null || missing+=" doxygen"
[[ -e $theme/doxygen-awesome.css ]] || missing+=" doxygen-awesome-css"
command -v node > /dev/null && [[ -e $katex/katex.min.css && -e /usr/share/nodejs/katex/katex.js ]] || missing+=" katex"
if [[ -n $missing ]]; then
    echo "make book: missing packages:$missing (make book-deps installs them)" >&2
    exit 2
fi
work=$build/book.work
rm -rf "$work" "$build/book"
mkdir -p "$work"
book/site/list_exercises.sh > "$work/exercises.md" # a page like the others, made of the statements
book/site/list_functions.sh > "$work/sheet.md"     # and one of the comments in cuda/kit
made="$work/exercises.md $work/sheet.md"

for page in book/*.md $made; do book/site/filter_page.sh "$page" > /dev/null; done # doxygen does not ask whether a filter failed
book/site/check_snippets.sh # doxygen passes over a label that is not there

doxygen -w html "$work/header.html" "$work/f.html" "$work/s.css" > /dev/null 2>&1
sed -i -e '/\$mathjax/d' -e '/MathJax/d' -e 's#</head>#<link href="$relpath^katex/katex.min.css" rel="stylesheet"/>\
<meta name="color-scheme" content="light dark"/>\
<script src="$relpath^doxygen-awesome-darkmode-toggle.js"></script>\
<script>DoxygenAwesomeDarkModeToggle.init()</script>\
</head>#' -e 's#<html #<html lang="en" #' "$work/header.html"
doxygen -l "$work/layout.xml" > /dev/null 2>&1
sed -i -e 's#<tab type="mainpage" visible="yes" title=""/>#<tab type="mainpage" visible="yes" title="Contents"/>#' \
    -e 's#<tab type="pages" visible="yes" title=""#<tab type="pages" visible="yes" title="Chapters"#' \
    -e 's#<tab type="modules" visible="yes"#<tab type="modules" visible="no"#' "$work/layout.xml"

BOOK_OUT=$work BOOK_THEME=$theme doxygen book/site/Doxyfile > /dev/null
# book/site/warnings.txt: one regular expression a line, each below the reason why that warning is no error
grep -v '^#' book/site/warnings.txt | grep -v '^$' > "$work/accepted" || true
if grep -v -E -f "$work/accepted" "$work/warnings" | grep . >&2; then
    echo "make book: doxygen warned" >&2
    exit 1
fi

mv "$work/html" "$build/book"
cp book/figures/*.svg figures/experiments/* "$build/book/"
mkdir -p "$build/book/katex/fonts"
cp "$katex/katex.min.css" "$build/book/katex/"
for font in $(grep -oE 'KaTeX_[A-Za-z0-9]+-[A-Za-z]+\.woff2' "$katex/katex.min.css" | sort -u); do
    cp -L "$katex/fonts/$font" "$build/book/katex/fonts/"
done
# only woff2 came along: the css names the other formats too
sed -i -E 's#, ?url\([^)]*\.(woff|ttf)\) ?format\(["'\'']?[a-z]+["'\'']?\)##g' "$build/book/katex/katex.min.css"
pages=$(for page in book/*.md $made; do label=$(sed -n '1s/.*{#\(.*\)}.*/\1/p' "$page"); echo "$build/book/${label:-index}.html"; done)
node book/site/link_listings.js "$work/tags" $pages
node book/site/mathematics.js $pages
labels=$(for page in $(ls book/*.md | grep -v '^book/index.md') $made; do sed -n '1s/.*{#\(.*\)}.*/\1/p' "$page"; done)
node book/site/print.js "$build/book" $labels > "$work/print.html" # all on one page, for paper
mv "$work/print.html" "$build/book/" && cp book/site/print.css "$build/book/"
book/lab/embed.sh "$build" # after the page for paper, whose figures stay still
book/site/check_links.js "$build/book"
book/site/check_pages.js "$build/book" $pages "$build/book/print.html"
node book/site/link_listings.js "$work/tags" --count $pages "$build/book/print.html"
rm -rf "$work"
echo "$build/book/index.html"
