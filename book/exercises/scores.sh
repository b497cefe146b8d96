#!/usr/bin/env bash
# make scores DIR=results: a table of a class. DIR holds what class/grade.sh writes, a .json file a submission, or a folder a student
# with results of make exercise RESULT=FILE, .json files anywhere in it. Prints the table, and writes it to DIR/scores.txt and
# DIR/scores.json: students by exercises passed, then by what their answers take; and for each count that has a ladder (exercise.h) the
# answers between the rungs, as shares of the stub. Several results of an exercise: one that passed, the least of them.
set -u
export LC_ALL=C
refuse() {
    echo "scores: $1" >&2
    exit 2
}
dir=${1:-}
[[ -n $dir ]] || refuse "expected DIR=FOLDER, with results of a class, found none"
dir=${dir%/}
[[ -d $dir ]] || refuse "$dir: expected a folder with results of a class, found none"
command -v jq >/dev/null || refuse "the package jq is missing"
mapfile -d '' -t files < <(find "$dir" -name '*.json' ! -path "$dir/scores.json" -type f -print0 | sort -z)
[[ ${#files[@]} -gt 0 ]] || refuse "$dir: expected results, SUBMISSION.json or STUDENT/NAME.json, found none"
for file in "${files[@]}"; do
    # shellcheck disable=SC2016 # $ is jq's
    jq -e --argjson inside "$([[ ${file#"$dir"/} == */* ]] && echo true || echo false)" '
        def result: (.exercise | type == "string") and (.passed | type == "boolean") and (.ladders // [] | all(.you and (.rungs | length > 0)));
        if .submission then (.submission | type == "string") and (.exercises | all(result)) else $inside and result end' \
        "$file" >/dev/null 2>&1 || refuse "$file: expected a submission of grade.sh, or a result in a student's folder, found something else"
done

new=$(mktemp -d) || exit 2
trap 'rm -rf "$new"' EXIT
# shellcheck disable=SC2016 # $ is jq's
jq -n --arg dir "$dir/" '
def mean: if length == 0 then null else add / length end;
def share($l): $l.you / $l.rungs[0].count;
[inputs | (if .submission then .submission as $student | .exercises[] | . + {student: $student}
           else . + {student: (input_filename[($dir | length):] | split("/")[0])} end) | . + {ladders: (.ladders // [])}]
| group_by([.student, .exercise])
| map(sort_by([(.passed | not), ([.ladders[] | share(.)] | mean)])[0])
| {students: (group_by(.student) | map({student: .[0].student, passed: [.[] | select(.passed) | .exercise],
                                         not_yet: [.[] | select(.passed | not) | {exercise, verdict}],
                                         share: ([.[] | select(.passed) | .ladders[] | share(.)] | mean)})
              | sort_by([-(.passed | length), .share // 2, .student])),
   ladders: ([.[] | . as $r | .ladders[] | {exercise: $r.exercise, what, ladder: ., student: $r.student}]
             | group_by([.exercise, .what])
             | map({exercise: .[0].exercise, what: .[0].what,
                    entries: ((map(select(.ladder.right) | {who: .student, share: share(.ladder), count: .ladder.you})
                               + (map(.ladder.rungs | .[0].count as $stub | .[] | {who: ("- " + .way), share: (.count / $stub)})
                                  | group_by(.who) | map({who: .[0].who, share: (map(.share) | mean)})))
                              | sort_by([.share, .who]))}))}' "${files[@]}" >"$new/scores.json" || exit 2
jq -r '
def cell($n): tostring | .[:$n] | . + " " * ($n - length);
def three: . * 1000 | round | tostring | "0000"[:4 - length] + . | .[:-3] + "." + .[-3:];
"student              passed   share of the stub, on average",
(.students[] | "\(.student | cell(20)) \(.passed | length | cell(8)) \(if .share then .share | three else "-" end)"),
(.ladders[] | "", "\(.exercise): \(.what)", (.entries[] | "  \(.share | three)  \(.who)\(if .count then "  \(.count)" else "" end)"))' \
    "$new/scores.json" >"$new/scores.txt" || exit 2
cp "$new/scores.json" "$dir/scores.json.new" && cp "$new/scores.txt" "$dir/scores.txt.new" &&
    mv "$dir/scores.json.new" "$dir/scores.json" && mv "$dir/scores.txt.new" "$dir/scores.txt" || refuse "$dir: cannot write scores.json and scores.txt there"
cat "$dir/scores.txt"
