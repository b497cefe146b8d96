#!/usr/bin/env bash
# Exercises of the book: every stub is turned down by its check, with a verdict and not by a crash; every
# solution passes, on several seeds; each has all its parts; refusals; a student's file is never overwritten.
source "$(dirname "$0")/tap.sh"
EX=book/exercises P=${B:-build}/exercises

verdict() { # verdict STATUS LINE NAME PROGRAM SEED: the exit status, how the last line begins
    "$P/$4" "$5" "$W/touched.png" >"$W.out" 2>"$W.err"
    [[ $? -eq $1 && $(tail -n 1 "$W.out") == "$2"* && -s $(echo "$W"/touched.p[np][gm]) ]]
    check $? "$3"
    rm -f "$W"/touched.*
}

for dir in "$EX"/[0-9]*/; do
    e=$(basename "$dir")
    [[ -s $dir/statement.md && -s $dir/solution.md && $(grep -c '^## ' "$dir/hints.md") -ge 3 ]] &&
        grep -q 'minutes' "$dir/statement.md"
    check $? "$e: statement with an estimate of time, at least 3 hints, solution explained"
    if [[ ! -x $P/$e/stub && -f $dir/stub.cu ]]; then
        skip "$e" "no C++ compiler here"
        continue
    fi
    verdict 1 "not yet: " "$e: its stub fails" "$e/stub" 1
    if [[ -f $dir/stub.cu ]]; then
        [[ $(grep -cE '^  (no GPU here: |not tried on the GPU: |on .*: (right; .* ms|wrong))' "$W.out") -eq 1 ]]
        check $? "$e: one line about a GPU"
    fi
    for seed in 1 2 3; do
        verdict 0 pass "$e: its solution passes, seed $seed" "$e/solution" "$seed"
    done
done

# ---- The same files for a GPU: no warning, no spill, nothing for ptxas to repair ------------------------

version=$("${NVCC:-false}" --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\),.*/\1/p')
for cu in "$EX"/[0-9]*/*.cu; do
    [[ $cu == */mine.cu ]] && continue
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
student() { (cd "$W" && MAKE=true B=build SEED=1 "$own/../exercise.sh" "$@"); }
mkdir -p "$W/build/exercises/$(basename "$own")"
printf '#!/bin/sh\necho pass\n' >"$W/build/exercises/$(basename "$own")/mine"
chmod +x "$W/build/exercises/$(basename "$own")/mine"
student run 1 >"$W.out" 2>"$W.err" && cmp -s "$own/stub.c" "$own/mine.c"
check $? "the first run makes the student's copy"
echo '/* mine */' >>"$own/mine.c" && cp "$own/mine.c" "$W/kept"
student progress >"$W.out" && grep -q 'changed since' "$W.out"
check $? "progress tells of a change"
student run 1 >"$W.out" 2>"$W.err" && cmp -s "$W/kept" "$own/mine.c"
check $? "the next run leaves it alone"
student progress >"$W.out" && grep -q ' passed$' "$W.out"
check $? "progress tells of a pass"
for words in "N=1'; touch $W/touched; '" "N=1\"; touch $W/touched; \"" "N=\$(shell touch $W/touched)" "SEED=1'; touch $W/touched; '"; do
    for target in exercise chapter; do
        [[ "$target $words" != 'chapter SEED'* ]] || continue # it has none
        ${MAKE:-make} --no-print-directory DEPS=0 $target N=01 "$words" > "$W.out" 2>&1
        [[ $? -eq 2 && ! -e $W/touched ]]
        check $? "what a student types is not run: $target $words"
    done
done
student hint 1 >"$W.out" && student hint 01 >"$W/second" && ! cmp -s "$W.out" "$W/second"
check $? "each hint is another one"
finish
