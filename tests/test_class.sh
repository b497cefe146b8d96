#!/usr/bin/env bash
# make class: what students get holds no solution, answer or seed, and judges as the project does; what a teacher keeps holds
# all of them; seeds change inputs; slides, plan, container file and workflow are whole. FULL=1, as root and with a
# network: the steps of the container file in a Debian of its own.
source "$(dirname "$0")/support/tap.sh"
B=${B:-build}
build=$(realpath "$B")
class() { BOOK_THEME=$W/none book/class/make_class.sh "$B" "$W/class" > "$W.out" 2> "$W.err"; } # without pages: test_book builds them
class
check $? "make class"
students=$W/class/students teacher=$W/class/teacher

# ---- What is where -------------------------------------------------------------------------------------------

[[ -z $(find "$students" -name 'solution.*' -o -name 'mine.*' -o -name answers -o -name tests -o -name teacher.md -o -name seeds) ]]
check $? "students get no solution, no answer, no test, no seed"
! grep -lE '^   \+ .* \| |class="answer"' "$students/book"/*.md > "$W.out"
check $? "and no page of theirs holds an answer or a right choice"
missing=
for dir in book/exercises/[0-9]*/ book/exercises/own/; do
    e=$(basename "$dir")
    [[ -s $students/${dir}uses && -s $students/${dir}check.c ]] || [[ -e ${dir}stub.cu && ! -e $B/exercises/$e/solution.o ]] || missing+=" $e"
    for solution in "$dir"solution.*; do cmp -s "$solution" "$teacher/solutions/$e/$(basename "$solution")" || missing+=" $solution"; done
done
[[ -z $missing ]]
check $? "every exercise is there, every solution with the teacher$missing"
[[ $(ls "$teacher/answers" | wc -l) -eq $(ls book/answers/*.md book/check_*.md | wc -l) && $(stat -c %a "$teacher") == 700 ]]
check $? "answers are with the teacher"
[[ $(grep -cE '^[0-9]+$' "$teacher/seeds") -eq 3 && $(sort -u "$teacher/seeds" | wc -l) -eq 3 ]]
check $? "three hidden seeds"
cp "$teacher/seeds" "$W/seeds" && class && cmp -s "$W/seeds" "$teacher/seeds"
check $? "a second make class keeps them"
mkdir "$W/full" && touch "$W/full/mine" && ! book/class/make_class.sh "$B" "$W/full" > "$W.out" 2> "$W.err" && [[ $(wc -l < "$W.err") -eq 1 && $(ls "$W/full") == mine ]]
check $? "a folder with other files is refused and left alone"

# ---- Slides and plan -----------------------------------------------------------------------------------------

if [[ -e $students/slides.html ]]; then
    [[ $(grep -c '<section>' "$students/slides.html") -eq $((1 + 2 * $(ls book/[0-9]*_*.md | wc -l))) ]] &&
        ! sed 's/xmlns="[^"]*"//g; s/base64,[^"]*//g' "$students/slides.html" | grep -E 'https?:|src="[^d]|@ref' > "$W.out"
    check $? "two slides a chapter, in one file that needs no network"
else
    skip "slides" "no nodejs or katex here"
fi
[[ $(sed -n '/minutes of exercises and/,/^$/p' "$teacher/plan.md" | grep -cE '^\| [1-6] \| [0-9b, ]+ \| [1-9][0-9]+ \| [1-9][0-9]+ \|$') -eq 6 ]]
check $? "six weeks with their times"
[[ $(sed -nE 's/^\| [1-6] \| ([0-9b, ]+) \| [0-9]+ .*/\1/p' "$teacher/plan.md" | tr -d ' ' | tr ',' '\n' | sort) == "$(ls book/[0-9]*_*.md | sed -E 's,book/0?,,; s/_.*//' | sort)" ]]
check $? "every chapter has its week"
[[ $(sed -n '/^## By chapter/,$p' "$teacher/plan.md" | grep -cE '^\| [0-9]+b? .* \| [0-9]+ \| [0-9]+ \| [0-9]+ \|$') -eq $(ls book/[0-9]*_*.md | wc -l) ]]
check $? "every chapter with its minutes"
mkdir "$W/gone" && cp -r book "$W/gone/" && rm -f "$W"/gone/book/examples/01_attention.c && ! "$W/gone/book/site/times.sh" 1 > "$W.out" 2> "$W.err" && [[ ! -s $W.out ]]
check $? "a chapter with a listing of nothing has no time"

# ---- The container file and the workflow ----------------------------------------------------------------------

sed -e ':a' -e '/\\$/{N;s/\\\n//;ba' -e '}' "$students/Containerfile" | sed '/^#/d; /^$/d' > "$W/steps"
! grep -vE '^(FROM|RUN|ENV|WORKDIR|CMD) ' "$W/steps" > "$W.out"
check $? "the container file says nothing that this test does not read"
packages=$(sed -nE 's/^RUN .*--no-install-recommends +([^&]*)&&.*/\1/p' "$W/steps" | tr -s ' ')
left_out=
for package in $(sed -nE 's/^(BOOK_)?PACKAGES := //p' Makefile book/book.mk); do
    [[ " $packages " == *" $package "* ]] || left_out+=" $package"
done
[[ -n $packages && -z $left_out ]]
check $? "it installs what make deps and make book-deps do$left_out"
if command -v apt-cache > /dev/null && apt-cache show make > /dev/null 2>&1; then
    apt-cache show --no-all-versions $packages > "$W.out" 2> "$W.err"
    check $? "each package has a name that Debian knows"
else
    skip "names of packages" "no apt-cache here, or no lists"
fi
workflow=$students/.github/workflows/grade.yml
if python3 -c 'import yaml' 2> /dev/null; then
    python3 - "$workflow" > "$W.out" 2> "$W.err" << 'END'
import sys, yaml
flow = yaml.safe_load(open(sys.argv[1]))
job, = flow["jobs"].values()
assert flow[True] == ["push", "workflow_dispatch"] and job["container"].startswith("debian:")
assert all(("run" in step) != ("uses" in step) for step in job["steps"])
assert any("class/grade.sh" in step.get("run", "") for step in job["steps"])
END
    check $? "the workflow is YAML with steps"
else
    skip "the workflow" "no python3 with yaml here"
fi
[[ $(sed -n 's/^FROM //p' "$W/steps") == "$(sed -n 's/ *container: //p' "$workflow")" ]]
check $? "and runs in the same Debian"

# ---- Grading: three answers, two seeds, in the students' tree with what is built already -----------------------

mkdir -p "$students/build/exercises" && cp -a "$build"/{flags,ref,sideless} "$students/build/"
for e in 01_attention 03_online_softmax; do cp -a "$build/exercises/$e" "$students/build/exercises/" && rm -f "$students/build/exercises/$e"/mine*; done
cp -a "$build"/exercises/*.o "$build"/exercises/*.d "$students/build/exercises/"
for s in alice bob; do mkdir -p "$W/$s/book/exercises"/{01_attention,03_online_softmax}; done
cp "$teacher/solutions/01_attention/solution.c" "$W/alice/book/exercises/01_attention/mine.c"
cp "$students/book/exercises/03_online_softmax/stub.c" "$W/bob/book/exercises/03_online_softmax/mine.c"
# One that says what it has seen; printf is declared there, since an answer includes what its stub includes.
sed 's/^{$/{ extern int printf(const char *, ...); printf("sees %a\\n", (double)q[0]);/' "$teacher/solutions/01_attention/solution.c" > "$W/bob/book/exercises/01_attention/mine.c"
head -n 2 "$teacher/seeds" > "$W/two"
grade() { (unset B MAKEFLAGS && "$students/class/grade.sh" "$@") > "$W.out" 2> "$W.err"; }
grade --seeds "$W/two" --out "$W/results" "$W/alice" "$W/bob"
[[ $? -eq 1 && $(cat "$W/results/summary.csv") == $'submission,passed,begun,own_steps\nalice,1,1,0\nbob,1,2,0' ]]
check $? "the right answers pass, the wrong one does not"
if command -v python3 > /dev/null; then
    python3 - "$W/results" "$W/two" > "$W.out" 2> "$W.err" << 'END'
import json, sys
alice, bob = (json.load(open(f"{sys.argv[1]}/{name}.json")) for name in ("alice", "bob"))
assert alice["seeds"] == 2 and [(e["exercise"], e["passed"], e["verdict"]) for e in alice["exercises"]] == [("01_attention", True, "pass")]
wrong = {e["exercise"]: e for e in bob["exercises"]}["03_online_softmax"]
assert not wrong["passed"] and "rows of K read: expected at most" in wrong["verdict"] and len(wrong["bars"]) == 3
text = open(f"{sys.argv[1]}/bob.json").read() + open(f"{sys.argv[1]}/summary.csv").read()
assert not any(seed.strip() in text for seed in open(sys.argv[2]))
END
    check $? "results are JSON and name no seed"
else
    skip "results are JSON" "no python3 here"
fi
[[ -z $(find "$students/book" -name 'mine*') ]]
check $? "no answer is left in the judge's tree"
mapfile -t seen < <(while read -r seed; do (cd "$students" && build/exercises/01_attention/mine --seed "$seed" | grep -m 1 sees); done < "$W/two") # bob's
[[ ${seen[0]} == *sees* && ${seen[1]} == *sees* && ${seen[0]} != "${seen[1]}" ]]
check $? "other seeds are other inputs:${seen[*]}"
unseeded=
for dir in book/exercises/[0-9]*/; do grep -qE 'exercise_(seed|inputs)|kernel_' "$dir/check.c" || unseeded+=" $dir"; done
[[ -z $unseeded ]] && grep -q 'exercise_seed()' book/exercises/kernel.c
check $? "no check has inputs of its own$unseeded"
# A judge that dies of the second seed alone, and an answer behind it: programs of the shell in a tree with nothing else.
T=$W/tree e=book/exercises/01_attention
mkdir -p "$T"/{class,$e} "$W"/{carol,dave}/$e
cp "$students/class/grade.sh" "$T/class/" && cp "$students/book/exercises/exercise.sh" "$T/book/exercises/" && touch "$T/$e"/{stub.c,statement.md}
printf '%%/mine.admitted.o:\n\tmkdir -p $(@D) && touch $@\n%%/mine: always\n\tcp book/exercises/$(notdir $(@D))/mine.c $@ && chmod +x $@\nalways:\n' > "$T/Makefile"
cat > "$W/dave/$e/mine.c" << 'END'
#!/usr/bin/env bash
while [[ $# -gt 1 ]]; do case $1 in --seed) seed=$2 ;; --json) json=$2 ;; esac; shift; done
echo "{\"exercise\": \"01_attention\", \"passed\": true, \"verdict\": \"pass\", \"seed\": $seed, \"bars\": []}" > "$json"
echo pass
END
sed "s/^echo pass/[[ \$seed -eq $(head -n 1 "$W/two") ]] || kill -KILL \$\$/" "$W/dave/$e/mine.c" > "$W/carol/$e/mine.c"
(unset B MAKEFLAGS && "$T/class/grade.sh" --seeds "$W/two" --out "$W/results" "$W/carol" "$W/dave") > "$W.out" 2> "$W.err"
[[ $? -eq 1 && $(cat "$W/results/summary.csv") == $'submission,passed,begun,own_steps\ncarol,0,1,0\ndave,1,1,0' ]] && grep -q 'the check ended by SIGKILL' "$W/results/carol.json"
check $? "where a judge dies of another seed the answer has not passed, and the next one is judged"
mkdir -p "$W/Doe, \"J\"/book/exercises"
grade --out "$W/results" "$W/Doe, \"J\"" && grep -qxF '"Doe, ""J""",0,0,0' "$W/results/summary.csv"
check $? "grade.sh: a name with a comma and quotes is one field"
cp "$W/alice/book/exercises/01_attention/mine.c" "$students/book/exercises/01_attention/"
grade --out "$W/results" "$students" && [[ -f $students/book/exercises/01_attention/mine.c ]] && grep -q '^students,1,1,0$' "$W/results/summary.csv"
check $? "a student judges what lies in the tree itself, and it stays there"
grade --out "$W/results" "$W/alice"
[[ $? -eq 2 && $(wc -l < "$W.err") -eq 1 ]]
check $? "a judge's tree with answers in it is refused"
mkdir -p "$W/later/alice/book/exercises" && rm "$students/book/exercises/01_attention/mine.c" && grade --out "$W/results" "$W/bob" "$W/alice" "$W/later/alice"
[[ $? -eq 2 && $(cat "$W.err") == *'found two called alice' ]]
check $? "grade.sh: two submissions of one name are refused, for their results would be one file"
for bad in "" "--seeds" "--colour x y" "$W/none"; do
    grade $bad
    [[ $? -eq 2 && $(wc -l < "$W.err") -eq 1 ]]
    check $? "grade.sh ${bad##*/}: one line and status 2"
done

# ---- The container's steps ---------------------------------------------------------------------------------------

why=
[[ -n ${FULL:-} ]] || why="only with FULL=1"
[[ -n $why || $(id -u) -eq 0 ]] || why="not root"
[[ -n $why ]] || command -v debootstrap > /dev/null || why="no debootstrap here"
mirror=$(sed -nE 's,^(deb +(\[[^]]*\] +)?|URIs: *)(https?://[^ ]+).*,\3,p' /etc/apt/sources.list /etc/apt/sources.list.d/* 2> /dev/null | grep -v security | head -n 1)
release=$(sed -nE 's/^FROM debian:([a-z]+)-slim$/\1/p' "$W/steps")
if [[ -z $why ]] && ! debootstrap --variant=minbase "$release" "$W/debian" ${mirror:+"$mirror"} > "$W.out" 2> "$W.err"; then why="debootstrap: $(tail -n 1 "$W.out")"; fi
if [[ -n $why ]]; then
    skip "the container's steps in a Debian of its own" "$why"
    finish
fi
cp /etc/resolv.conf "$W/debian/etc/" 2> /dev/null
sed -n 's/^RUN //p' "$W/steps" > "$W/debian/run.sh"
chroot "$W/debian" /bin/sh -ex /run.sh > "$W.out" 2> "$W.err"
check $? "the container's steps"
rm -rf "$students/build" && find "$students/book" -name 'mine.*' -delete && cp -a "$students" "$W/debian/msa"
chroot "$W/debian" env -i PATH=/usr/bin:/bin:/usr/sbin:/sbin DEPS=0 make -C /msa exercise N=01 > "$W.out" 2> "$W.err"
grep -q '^not yet: ' "$W.out"
check $? "an exercise is judged there"
chroot "$W/debian" env -i PATH=/usr/bin:/bin:/usr/sbin:/sbin sh -c 'cd /msa && book/site/build.sh build' > "$W.out" 2> "$W.err"
check $? "the pages of the book are built there"
finish
