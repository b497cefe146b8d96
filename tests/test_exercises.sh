#!/usr/bin/env bash
# Exercises of the book: every stub is turned down by its check, with a verdict and not by a crash; every
# solution passes, whatever the seed; answers that cheat or crash are refused, with words that help (tests/refused;
# FULL=1 adds tests/refused_full and seeds); each has all its parts; refusals; a student's file is never overwritten.
source "$(dirname "$0")/support/tap.sh"
EX=book/exercises P=${B:-build}/exercises

said() { sed -nE '/^(pass|not yet: )/,$p' "$1" | tr '\n' ' ' | sed 's/ $//'; } # a verdict in a line: a deadlock's story has several
verdict() { # verdict STATUS LINE NAME PROGRAM [SEED]: the exit status, how the verdict begins
    "$P/$4" ${5:+--seed "$5"} --picture "$W/touched.png" >"$W.out" 2>"$W.err"
    [[ $? -eq $1 && $(said "$W.out") == "$2"* && -s $(echo "$W"/touched.p[np][gm]) ]]
    check $? "$3 $(tail -n 1 "$W.out" | grep -oE '.seed [0-9]+.$')"
    mv -f "$W"/touched.p[np][gm] "$W/picture" 2>/dev/null
}

ladders=
for dir in "$EX"/[0-9]*/; do
    e=$(basename "$dir")
    [[ -s $dir/statement.md && -s $dir/solution.md && $(grep -c '^## ' "$dir/hints.md") -ge 3 ]] &&
        grep -q 'minutes' "$dir/statement.md"
    check $? "$e: statement with an estimate of time, at least 3 hints, solution explained"
    if [[ ! -x $P/$e/stub && -f $dir/stub.cu ]]; then
        skip "$e" "no C++ compiler here"
        continue
    fi
    verdict 1 "not yet: " "$e: its stub fails" "$e/stub" ${FULL:+1}
    mv -f "$W/picture" "$W/of_stub"
    if grep -q "share of the stub's:" "$W.out"; then
        ladders+=" $e"
        awk '/^    the stub / {stub = $(NF - 1)} /^    you/ {bad += $(NF - 1) != stub; n++} END {exit bad || !n}' "$W.out"
        check $? "$e: what its table says of the stub"
        cp "$W.out" "$W/ladder_$e"
    fi
    if [[ -f $dir/stub.cu ]]; then
        [[ $(grep -cE '^  (no GPU here: |not tried on the GPU: |on .*: (right; .* ms|wrong))' "$W.out") -eq 1 ]]
        check $? "$e: one line about a GPU"
    fi
    for seed in '' ${FULL:+1 2 3 4 5 6 7 8}; do
        verdict 0 "pass (seed " "$e: its solution passes" "$e/solution" $seed
        [[ $seed == 1 ]] || continue
        ! cmp -s "$W/picture" "$W/of_stub"
        check $? "$e: the picture of its stub is another"
    done
    ! grep -E '(OVER|NOT COUNTED)$' "$W.out"
    check $? "$e: its counts lie between floor and bar"
done

[[ $(wc -w <<<"$ladders") -ge 8 || ! -x $P/11_coalesce/stub ]]
check $? "answers that are compared with a ladder:$ladders"
# Rungs that are kernels of the ladder: what `msa count` counts there, in these columns of its table.
rungs() { # rungs EXERCISE SHAPE COLUMN
    local name count
    [[ -x $MSA && -s $W/ladder_$1 ]] && "$MSA" kernels | grep -q '^index/naive.*simt' || { skip "$1: its rungs" "no kernels here" && return; }
    sed -nE 's,^    (index/[a-z]+) +([0-9]+) .*,\1 \2,p' "$W/ladder_$1" | sort -u >"$W/rungs"
    while read -r name count; do
        "$MSA" count "$name" --shape "$2 width=64:64 block=32" --csv "$W/count.csv" >/dev/null 2>"$W.err" &&
            awk -F, -v columns="$3" -v count="$count" 'NR == 1 {for (i = 1; i <= NF; i++) at[$i] = i - NF}
                NR == 2 {n = split(columns, c, "+"); while (n) sum += $(NF + at[c[n--]])} END {exit sum != count}' "$W/count.csv"
        check $? "$1: $name takes $count on $2"
    done <"$W/rungs"
}
rungs 11_coalesce 'T=12 S=150 heads=4:2 topk=2' load_sectors
rungs 12_banks 'T=12 S=150 heads=4:2 topk=2' shared_accesses+bank_conflicts
rungs 16_fuse 'T=50 S=500 heads=4:2 topk=4' load_sectors
for shape in 'T=1 S=200' 'T=13 S=100'; do
    grep -A2 "$([[ $shape == T=1\ * ]] && echo 'for one' || echo 'for 13') .*share" "$W/ladder_15_tensor_tiles" >"$W/ladder_15" 2>/dev/null
    rungs 15 "$shape heads=8:8 topk=2" tensor_fma
done

# ---- Answers that cheat or crash: the first line of each says what its verdict has to look like --------------

program_of() { # program_of FILE
    local who e
    who=$(basename "${1%.*}")
    e=$(basename "$(echo "$EX/${who%%_*}"_*/)")
    echo "$P/$e/$who"
}
ran() { # ran FILE: its program's verdict, and a line of what else is wrong
    "$(program_of "$1")" >"$W/ran" 2>&1
    local status=$?
    said "$W/ran" && echo
    [[ $status -eq 1 ]] || echo "and it did not end with status 1"
    ! grep 'CHECK failed' "$W/ran" # a sanitizer's trouble with itself
}
played() { # played FILE: the last line that a student reads
    local refused
    refused=$(program_of "$1").admitted.o.refused
    if [[ -s $refused ]]; then echo "not yet: was not run, since $(cat "$refused")"; else ran "$1"; fi
}
for file in tests/refused/*.c* ${FULL:+tests/refused_full/*.c*}; do
    [[ $file == *.cu && ! -x $P/11_coalesce/stub ]] && skip "$file" "no C++ compiler here" && continue
    [[ $file == *_@(by_value|returned).cu && ! -e $P/11_coalesce/stub.o.gimple ]] && skip "$file" "this compiler does not list what calls pass" && continue
    wants=$(sed -nE '1s,^/[*] wants: (.*) [*]/$,\1,p' "$file")
    played "$file" >"$W.out" 2>"$W.err"
    [[ -n $wants && $(wc -l <"$W.out") -eq 1 && $(cat "$W.out") == "not yet: "* && $(cat "$W.out") =~ $wants ]]
    check $? "${file#tests/}: $(cut -c 1-150 "$W.out")"
done
# Another's solution, as an answer to exercise 1.
other=$W/01_attention && mkdir -p "$other" && cp "$P"/01_attention/{stub,solution}.[od] "$other"
cp "$P/01_attention/solution.d" "$other/other.d" && objcopy --redefine-sym attend=attends "$P/01_attention/solution.o" "$other/other.o"
PREPROCESS="cc -E" $EX/admit.sh $EX/01_attention/solution.c "$other/other.o" "$other/admitted.o"
grep -qx "it has no 'attend', which its task asks for" "$other/admitted.o.refused"
check $? "an answer without the function that its task asks for"
# One fence is not enough: what names would refuse does not pass where it is run all the same.
behind() { # behind FILE WORDS
    [[ -s $(program_of "$1").admitted.o.refused && $(ran "$1") =~ ^'not yet: '.*$2 ]]
    check $? "${1#tests/}, run all the same: $2"
}
behind tests/refused/01_exit.c 'the answer ended the program .status 0. instead of returning'
behind tests/refused/01_reference.c 'it calls the reference'
behind tests/refused/07_file.c 'pairs_dense at'
behind tests/refused/10_constructor.c 'block recall'
if [[ -n ${FULL:-} ]]; then
    for file in 01_fork 01__exit 01_sleep 01_raise 01_pthread_create 01_ptrace 01_system; do
        behind "tests/refused_full/$file.c" '(it calls the system|the answer ended the program|Bad system call)'
    done
    if grep -q fsanitize "${B:-build}/flags"; then
        skip "refused_full/01_pipe.c, run all the same" "UBSan asks the system for pipes in an answer's process"
    else
        behind tests/refused_full/01_pipe.c 'it calls the system'
    fi
fi
[[ -n ${FULL:-} ]] || skip "tests/refused_full, and more seeds" "only with FULL=1"

# ---- Seeds, and the result for scripts ------------------------------------------------------------------------

online=$P/03_online_softmax
for result in a b; do # pages of equal processes differ now and then
    "$online/stub" --seed 5 --json "$W/$result" >"$W.out"
    sed -i 's/\("bytes kept of a long text", "floor": 0, "found": \)[0-9]*/\1N/' "$W/$result"
done
cmp -s "$W/a" "$W/b" && grep -qxE '[{]"exercise": "03_online_softmax", "passed": false, "verdict": "rows of K read: expected at most 2460, found 4920", "seed": 5, "bars": \[[{]"what": "rows of K read", "floor": 2460, "found": 4920, "bar": 2460[}], .*\][}]' "$W/a"
check $? "a seed replays, and the result is one JSON object"
[[ $("$online/solution" | tail -n 1) != "$("$online/solution" | tail -n 1)" ]]
check $? "without a seed each run has its own"
if [[ -x $P/13_barrier/stub ]]; then
    "$P/13_barrier/stub" --seed 5 --json "$W/a" >"$W.out"
    [[ $(tail -n 1 "$W.out") =~ ^'not yet: '.*': race: '.*', timing random) (seed 5)'$ && $(grep -oE 'seed\W+5' "$W.out" "$W/a" | wc -l) -eq 2 ]]
    check $? "a race names the run's seed, once, and the words of its verdict do not"
else
    skip "the seed of a race" "no C++ compiler here"
fi
for bad in '--seeds 5' '--seed 5x' '--seed 99999999999999999999'; do
    "$online/solution" $bad >"$W.out" 2>"$W.err"
    [[ $? -eq 2 && $(wc -l <"$W.err") -eq 1 && ! -s $W.out ]]
    check $? "$bad: one line and status 2"
done

# ---- A class -------------------------------------------------------------------------------------------------

class=$W/class && mkdir -p "$class/ada/later" "$class/bob o"
"$online/solution" --seed 5 --json "$class/ada/later/3.json" >"$W.out"
"$online/stub" --seed 5 --json "$class/ada/3.json" >"$W.out"
"$online/stub" --seed 5 --json "$class/bob o/3.json" >"$W.out"
if command -v jq >/dev/null; then
    ${MAKE:-make} --no-print-directory DEPS=0 scores DIR="$class" >"$W.out" 2>"$W.err" && cmp -s "$W.out" "$class/scores.txt" &&
        [[ $(jq -c '[.students[] | [.student, (.passed | length)]]' "$class/scores.json") == '[["ada",1],["bob o",0]]' &&
            $(grep -A4 '^03_online_softmax: rows of K read' "$W.out" | tail -n 4 | tr '\n' ';') == '  0.500  - online;  0.500  ada  2460;  1.000  - the stub;  1.000  bob o  4920;' ]]
    check $? "make scores: the best of a student's results, between the rungs"
    mkdir "$W/graded" && printf '{"submission": "eve", "seeds": 1, "exercises": [%s]}' "$(cat "$class/ada/3.json")" >"$W/graded/eve.json"
    $EX/scores.sh "$W/graded" >"$W.out" 2>"$W.err" && $EX/scores.sh "$W/graded" | cmp -s - "$W.out" && grep -qE '^eve  +0 +-$' "$W.out"
    check $? "and of what grade.sh writes, again and again"
else
    skip "make scores" "no jq here"
fi
no_scores() { # no_scores WORDS DIR
    $EX/scores.sh "$2" >"$W.out" 2>"$W.err"
    [[ $? -eq 2 && $(wc -l <"$W.err") -eq 1 && ! -s $W.out ]] && grep -q "$1" "$W.err"
    check $? "scores: $1"
}
mkdir "$W/empty"
no_scores 'expected DIR=FOLDER' ''
no_scores 'nowhere: expected a folder' "$W/nowhere"
if command -v jq >/dev/null; then
    no_scores 'empty: expected results' "$W/empty"
    echo '{"exercise": 3}' >"$class/bob o/x.json"
    no_scores 'x.json: expected a submission' "$class"
fi

# ---- The same files for a GPU: no warning, no spill, nothing for ptxas to repair ------------------------

version=$("${NVCC:-false}" --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\),.*/\1/p')
for cu in "$EX"/[0-9]*/*.cu; do
    [[ $cu == */mine.cu ]] && continue
    if [[ -z ${FULL:-} ]]; then
        skip "${cu#"$EX"/} compiles with nvcc" "only with FULL=1"
        continue
    fi
    if [[ -z $version || $(printf '%s\n' 12.4 "$version" | sort -V | head -n 1) != 12.4 ]]; then
        skip "${cu#"$EX"/} compiles with nvcc" "no nvcc 12.4 or newer here"
        continue
    fi
    cuda/nvcc.sh "$cu" "$W/kernel.o" >"$W.out" 2>"$W.err"
    check $? "${cu#"$EX"/} compiles with nvcc"
done

if [[ -x $P/with_gpu ]]; then
    verdict 0 pass "a kernel linked with the GPU's side passes" with_gpu 1
    grep -qE '^  (no GPU here: .*CUDA|on .*: right; .* ms)' "$W.out"
    check $? "and has looked for a GPU:$(grep -E '^  (no GPU here|on )' "$W.out")"
else
    skip "a kernel linked with the GPU's side" "no nvcc 12.4 or newer here, or no C++ compiler, or a build for the GPU, which links all so"
fi

# ---- What a student sees, in a copy of the directory -------------------------------------------------

refuses() { # refuses COMMAND N
    $EX/exercise.sh "$1" "$2" >"$W.out" 2>"$W.err"
    [[ $? -eq 2 && $(wc -l <"$W.err") -eq 1 && ! -s $W.out ]]
    check $? "refused: $1 N=$2"
}
for bad in '' 99 x ../01 '01 02' '*'; do
    refuses run "$bad"
    refuses hint "$bad"
done

mkdir -p "$W/book/exercises" && cp -r $EX/exercise.sh $EX/01_* "$W/book/exercises" && rm -f "$W"/book/exercises/*/mine.*
own=$(echo "$W"/book/exercises/01_*)
# In place of make: what would be built, and what admit.sh would say.
printf '#!/bin/sh\n[ -z "$FAILS" ] || exit 2\n[ -e "$2" ] || { : >"$2"; printf "%%s" "$REFUSED" >"$2.refused"; }\n' >"$W/make"
student() { (cd "$W" && MAKE=$W/make B=build SEED=${SEED-1} "$own/../exercise.sh" "$@"); }
mkdir -p "$W/build/exercises/$(basename "$own")"
printf '#!/bin/sh\necho "pass (seed 1)"\nexit ${STATUS:-0}\n' >"$W/build/exercises/$(basename "$own")/mine"
chmod +x "$W/make" "$W/build/exercises/$(basename "$own")/mine"
student run 1 >"$W.out" 2>"$W.err" && cmp -s "$own/stub.c" "$own/mine.c"
check $? "the first run makes the student's copy"
echo '/* mine */' >>"$own/mine.c" && cp "$own/mine.c" "$W/kept"
student progress >"$W.out" && grep -q 'changed since' "$W.out"
check $? "progress tells of a change"
student run 1 >"$W.out" 2>"$W.err" && cmp -s "$W/kept" "$own/mine.c"
check $? "the next run leaves it alone"
student progress >"$W.out" && grep -q ' passed$' "$W.out"
check $? "progress tells of a pass"
STATUS=139 student run 1 >"$W.out"
[[ $? -eq 1 ]] && tail -n 2 "$W.out" | head -n 1 | grep -qx 'not yet: the check ended by SIGSEGV before its verdict'
check $? "a check that does not come to its end is no pass, and the signal is named"
STATUS=3 student run 1 | grep -qx 'not yet: the check ended with status 3 before its verdict'
check $? "a status that is no signal's"
STATUS=139 student run 1 >"$W.out"
student progress | grep -q ' not yet: the check ended'
check $? "progress does not call it one either"
RESULT=$W/none/json student run 1 >"$W.out" 2>"$W.err"
[[ $? -eq 2 && $(wc -l <"$W.err") -eq 1 && ! -s $W.out ]]
check $? "a result that cannot be written: one line and status 2"
REFUSED='it uses "exit"' RESULT=$W/json student run 1 >"$W.out"
[[ $? -eq 1 && $(cat "$W/json") == '{"exercise": "01_attention", "passed": false, "verdict": "mine.c was not run, since it uses \"exit\"", "seed": 1, "bars": []}' ]]
check $? "what is not run has a result too"
FAILS=1 student run 1 >"$W.out"
[[ $? -eq 1 ]] && grep -qx 'not yet: .*/mine.c does not compile' "$W.out"
check $? "what does not compile is not yet an answer"
for words in "N=1'; touch $W/touched; '" "N=1\"; touch $W/touched; \"" "N=\$(shell touch $W/touched)" "SEED=1'; touch $W/touched; '"; do
    for target in exercise chapter; do
        [[ "$target $words" != 'chapter SEED'* ]] || continue # it has none
        ${MAKE:-make} --no-print-directory DEPS=0 $target N=01 "$words" > "$W.out" 2>&1
        [[ $? -eq 2 && ! -e $W/touched ]]
        check $? "what a student types is not run: $target $words"
    done
done
one_line() { # one_line PATTERN TARGET WORD...: all that make says, with exit status 2
    local pattern=$1
    shift
    ${MAKE:-make} --no-print-directory DEPS=0 "$@" >"$W.out" 2>"$W.err"
    [[ $? -eq 2 && ! -s $W.out && $(cat "$W.err") =~ ^'make'(\[[0-9]+\])?': *** '$pattern'.  Stop.'$ ]]
    check $? "make $*: one line"
}
for target in exercise hint; do
    one_line "exercise: expected N=01 to N=[0-9]+ or a name that 'make progress' lists, found N=77" $target N=77
done
for seed in x 99999999999999999999; do
    one_line "exercise: expected SEED to be a number of at most 19 digits, found '$seed'" exercise N=01 SEED=$seed
done
one_line 'scores: expected DIR=FOLDER, with results of a class, found none' scores
one_line "exercise: cannot write the result to RESULT=/nosuch/x" exercise N=01 RESULT=/nosuch/x
one_line "chapter: expected N=01 to N=[0-9]+, found N=77" chapter N=77
student hint 1 >"$W.out" && student hint 01 >"$W/second" && ! cmp -s "$W.out" "$W/second"
check $? "each hint is another one"
finish
