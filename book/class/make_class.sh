#!/usr/bin/env bash
# make class: make_class.sh BUILD DIR writes what a class needs. DIR/students is this project without solutions and
# answers, with the judge, slides, a container file and a workflow: what a teacher publishes. DIR/teacher is not
# for publication: solutions, answers, hidden seeds and the plan. An existing DIR/teacher/seeds is kept.
set -euo pipefail
export LC_ALL=C
build=$1 to=$2
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [[ -e $to && ! -e $to/teacher/seeds ]] && [[ ! -d $to || -n $(ls -A "$to") ]]; then
    echo "make class: expected CLASS=$to to be new, empty or an earlier class, found other files" >&2
    exit 2
fi
new=$(mktemp -d "${to%/}.new.XXXXXX" 2> /dev/null) || {
    mkdir -p "$(dirname "$to")" && new=$(mktemp -d "${to%/}.new.XXXXXX")
}
trap 'rm -rf "$new"' EXIT
students=$new/students teacher=$new/teacher
mkdir -p "$students" "$teacher/solutions" "$teacher/answers"

# ---- For students: all but tests, solutions, answers and what a build makes -----------------------------------
tar -cf - --exclude='mine.*' --exclude='solution.*' --exclude=__pycache__ \
    Makefile README.md LICENSE .ci ref cuda data/kjv-* data/README.md data/text.sh data/checkpoint data/experiments figures/experiments \
    book | tar -xf - -C "$students"
rm -r "$students/book/answers" "$students/book/class"
for page in book/[0-9]*.md; do ANSWERS=0 book/site/fold_answers.sh "$page" > "$students/$page"; done
for page in book/check_*.md; do ANSWERS=0 book/site/fold_choices.sh "$page" > "$students/$page"; done
rm "$students/book/teacher.md" && sed -i '/@ref teacher/d' "$students/book/index.md"
for dir in book/exercises/[0-9]*/ book/exercises/own/; do
    out=$build/${dir#book/}
    if [[ -e ${out}solution.o ]]; then book/class/uses.sh "$out" "$dir" > "$students/${dir}uses"; fi
done
mkdir "$students/class" && cp book/class/grade.sh book/class/START.md "$students/class/"
cp book/class/Containerfile "$students/"
mkdir -p "$students/.github/workflows"
cp book/class/workflow.yml "$students/.github/workflows/grade.yml"
mv "$students/README.md" "$students/class/PROJECT.md" # what the project says of itself; some of the book's tables are its
mv "$students/class/START.md" "$students/README.md"
sed -i 's,^@TABLE \.\./README\.md ,@TABLE ../class/PROJECT.md ,' "$students"/book/*.md
sed -i '/^- The questions at a chapter.s end have answers/,/^- /{/^- @ref/!d}' "$students/book/index.md"
printf '/build*/\n.msa-*\n' > "$students/.gitignore"

# ---- For the teacher ---------------------------------------------------------------------------------------------
for dir in book/exercises/[0-9]*/ book/exercises/own/; do
    mkdir "$teacher/solutions/$(basename "$dir")" && cp "$dir"solution.* "$teacher/solutions/$(basename "$dir")/"
done
cp book/answers/*.md "$teacher/answers/"
cp book/check_*.md "$teacher/answers/"
book/class/plan.sh > "$teacher/plan.md"
cp book/class/TEACHER.md "$teacher/README.md"
if [[ -e $to/teacher/seeds ]]; then
    cp "$to/teacher/seeds" "$teacher/seeds"
else
    shuf -i 1000000-999999999 -n 3 --random-source=/dev/urandom > "$teacher/seeds"
fi
chmod go-rwx "$teacher"

# ---- Slides and the book as pages, where what they take is here ---------------------------------------------------
if command -v node > /dev/null && [[ -e /usr/share/nodejs/katex/katex.js ]]; then
    node book/class/slides.js book > "$students/slides.html"
else
    echo "make class: no slides: they take nodejs and katex (make book-deps)"
fi
if [[ -d $build/lab ]]; then mkdir -p "$students/build" && cp -r "$build/lab" "$students/build/"; fi
if (cd "$students" && book/site/build.sh build) > "$new/said" 2>&1; then
    mv "$students/build/book" "$students/pages"
else
    echo "make class: no pages of the book: $(tail -n 1 "$new/said")"
fi
rm -rf "$students/build" "$new/said"

if [[ -e $to ]]; then rm -rf "$to/students" "$to/teacher" && mv "$students" "$teacher" "$to/" && rmdir "$new"; else mv "$new" "$to"; fi
chmod 755 "$to"
echo "$to/students: publish this; $to/teacher: keep this (README.md says what is where)"
