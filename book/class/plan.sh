#!/usr/bin/env bash
# The plan of six weeks with times, in Markdown: the table of book/teacher.md, and what each chapter takes (times.sh).
set -u
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

title() { sed -n '1s/^# *Chapter [0-9b]*: *\(.*[^ ]\) *{#.*/\1/p' "$1"; }
cat << 'END_OF_HEAD'
# Six weeks

One meeting of 90 minutes a week. Reading goes by length and difficulty: 150 words of prose a minute, 2 minutes a formula that
stands alone, 12 lines of a listing or 25 of an output a minute, 2 minutes a figure. Exercises take what their statements say, a step of `make own` half
an hour. They are chosen from: nobody does all of weeks 5 and 6.

END_OF_HEAD
sed -n '/^| week /,/^$/p' teacher.md | sed -E 's/@ref ch0?([0-9]+b?)/chapter \1/g'
echo "| week | chapters | minutes to read | minutes of exercises and of make own, all of them |"
echo "|--:|:--|--:|--:|"
week=0
for chapters in "1 2" "3 4" "5 6" "7 8 9" "10 10b 11 12 13 13b" "14 15 15b 16 17 18"; do
    week=$((week + 1))
    read -r reading work <<< "$(site/times.sh $chapters)"
    echo "| $week | ${chapters// /, } | $reading | $work |"
done
printf '\n## By chapter\n\n| chapter | minutes to read | exercises | make own |\n|:--|--:|--:|--:|\n'
site/times.sh | while read -r number reading exercises own; do
    echo "| ${number#0} $(title "$(echo "$number"_*.md)") | $reading | $exercises | $own |"
done
