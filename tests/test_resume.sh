#!/usr/bin/env bash
# Training that is stopped ends in the same bytes as training that is not: by a signal it may handle, by
# SIGKILL at random moments (KILLS of them, default 20; the seed is printed), and with another thread count.
source "$(dirname "$0")/support/tap.sh"
kills=${KILLS:-20} seed=${MSA_SEED:-$RANDOM}
RANDOM=$seed

if ! has_models; then
    skip "resuming" "this build has no jansson, so no checkpoints"
    finish
fi

for i in $(seq 2500); do echo "line $i of a text that is the same on every machine: $((i * i % 1009))"; done > "$W/text"
train() { # train OUT [OPTION...]; in the background `exec` makes $! the program itself
    ${exec-} "$MSA" train --text "${text-$W/text}" --out "$1" --steps "${steps-120}" --context 64 --layers 2 --d-model 16 --heads 2 \
        --kv-heads 1 --d-head 8 --d-index 8 --d-ff 24 --block 8 --topk 3 --index-warmup 30 --save-every 2 "${@:2}"
}
whole=$W/whole.safetensors cut=$W/cut.safetensors
same() { cmp -s "$whole" "$cut" && cmp -s "$W/whole.csv" "$W/cut.csv"; }

echo "seed $seed (MSA_SEED=$seed replays it)"
train "$whole" > "$W.out"
check $? "a run from start to end"
grep -q "^MSA in float32 on " "$W.out"
check $? "... says of which type"

OMP_NUM_THREADS=1 train "$cut" > "$W.out"
same
check $? "one thread and all threads end in the same bytes"
rm -f "$W"/cut.*

# Starts a run, waits until it has done some steps, and sends it a signal; 1 if it finished before that.
interrupt() { # interrupt SIGNAL SECONDS-AFTER-THE-FIRST-STEPS
    exec=exec train "$cut" > "$W.out" 2>&1 &
    local pid=$!
    while kill -0 $pid 2> /dev/null && [[ ! -e $cut.train ]]; do sleep 0.01; done
    sleep "$2"
    kill "-$1" $pid 2> /dev/null
    wait $pid 2> /dev/null
}

# On a busy machine the run may have done its steps before the signal comes: then once more.
interrupt_in_time() {
    local tries
    for tries in {1..50}; do
        interrupt INT 0.02
        status=$?
        ! grep -q "stopped after step" "$W.out" || return
        rm -f "$W"/cut.*
    done
}
interrupt_in_time
[[ $status -eq 130 && -e $cut.train && ! -e $cut ]] && grep -q "stopped after step" "$W.out"
check $? "an interrupt leaves a state and says so"
train "$cut" > "$W.out" && same
check $? "going on after an interrupt ends in the same bytes"
[[ ! -e $cut.train ]]
check $? "a finished run leaves no state behind"

# All steps done, a signal ends the judgement of a long held-out text at once. curve: a row a step, and its head.
for i in {1..60}; do cat "$W/text"; done > "$W/long"
exec=exec text=$W/long steps=2 train "$W/judged.safetensors" --backend ref > "$W.out" 2>&1 &
pid=$!
until [[ $(wc -l < "$W/judged.csv" 2> /dev/null) -eq 3 ]] || ! kill -0 $pid 2> /dev/null; do sleep 0.05; done
sleep 0.5
kill -TERM $pid
SECONDS=0
wait $pid 2> /dev/null
[[ $? -eq 143 && $SECONDS -lt 5 && -e $W/judged.safetensors.train && ! -e $W/judged.safetensors ]]
check $? "a signal ends the last judgement, and the state is there"
rm -f "$W"/judged.* "$W/long"

# A fault that somebody sends ends the run as any other does, also where OpenBLAS watches for its own.
(ulimit -c 0; exec=exec steps=100000 train "$W/fault.safetensors") > "$W.out" 2>&1 &
pid=$!
until [[ -e $W/fault.safetensors.train ]] || ! kill -0 $pid 2> /dev/null; do sleep 0.05; done
kill -SEGV $pid
for i in {1..100}; do kill -0 $pid 2> /dev/null && sleep 0.1; done
! kill -KILL $pid 2> /dev/null
ended=$?
wait $pid 2> /dev/null
status=$?
ldd "$MSA" | grep -q lib.san && [[ $status -ne 0 ]] && status=139 # it has a report and a status of its own
[[ $status -eq 139 && $ended -eq 0 ]]
check $? "the first SIGSEGV that is sent ends a run"
rm -f "$W"/fault.*

killed=0 wrong=0 finished=0
rm -f "$W"/cut.*
while [[ $killed -lt $kills && $wrong -lt 3 ]]; do # where training fails, nothing is there to be killed
    interrupt KILL "0.$(printf '%03d' $((RANDOM % 120)))"
    if [[ $? -eq 137 ]]; then
        killed=$((killed + 1))
    else
        finished=$((finished + 1))
        same || wrong=$((wrong + 1))
        rm -f "$W"/cut.*
    fi
done
train "$cut" > "$W.out" && same && [[ $wrong -eq 0 && $killed -eq $kills ]]
check $? "killed $killed times (between which $finished runs finished): the same bytes"

expect_refusal() { # expect_refusal NAME PATTERN COMMAND...
    "${@:3}" > "$W.out" 2> "$W.err"
    local status=$?
    [[ $status -eq 2 && $(wc -l < "$W.err") -eq 1 && ! -s $W.out ]] && grep -q -- "$2" "$W.err"
    check $? "$1"
}
expect_late_refusal() { # the same where a run has said already how it goes on
    "${@:3}" > "$W.out" 2> "$W.err"
    [[ $? -eq 2 && $(wc -l < "$W.err") -eq 1 ]] && grep -q -- "$2" "$W.err"
    check $? "$1"
}
expect_refusal "a finished model is not overwritten" "name that is free" train "$cut"
rm -f "$W"/cut.*
interrupt_in_time
if [[ -e $cut.train ]]; then
    before=$(cksum < "$cut.train")
    expect_refusal "a state of another learning rate" "another run: expected train.lr" train "$cut" --lr 0.001
    expect_refusal "a state of another precision" "another run: expected train.precision = bf16, found float32" \
        train "$cut" --precision bf16
    expect_refusal "a state of other gains" "another run: expected train.index_gain = 2, found none" train "$cut" --index-gain 2
    expect_refusal "a state of another kind of attention" "another run: expected sparse" train "$cut" --attention gqa
    echo "one more line" >> "$W/text"
    expect_refusal "a state of another text" "another run: expected train.text" train "$cut"
    [[ $(cksum < "$cut.train") == "$before" ]]
    check $? "refusing leaves the state as it was"
    head -c 1000 "$cut.train" > "$W/short" && mv "$W/short" "$cut.train"
    expect_refusal "a truncated state" "cut.safetensors.train" train "$cut"
else
    check 1 "an interrupt leaves a state"
fi
head -c 20 "$W/text" > "$W/tiny"
expect_refusal "a text shorter than the context" "expected more than" \
    "$MSA" train --text "$W/tiny" --out "$W/tiny.safetensors"
expect_refusal "no such text" "--text" "$MSA" train --text "$W/none" --out "$W/tiny.safetensors"
expect_refusal "no name to write" "found an empty name" "$MSA" train --text "$W/text" --out ""
expect_refusal "an unknown kind of attention" "--attention" train "$W/tiny.safetensors" --attention both
expect_refusal "an unknown selector" "--selector" train "$W/tiny.safetensors" --selector best
expect_refusal "a text and the task" "--task: expected no --text" train "$W/tiny.safetensors" --task
expect_refusal "neither" "--text: expected this option" "$MSA" train --out "$W/tiny.safetensors"
expect_refusal "a task that does not fit" "the task: expected a context of at least" \
    "$MSA" train --task --out "$W/tiny.safetensors" --context 16
expect_refusal "recall of a dense model" "--recall-every" train "$W/tiny.safetensors" --attention gqa --recall-every 5
expect_refusal "an unknown precision" "--precision: expected float32 or bf16, found 'half'" train "$W/tiny.safetensors" --precision half
expect_refusal "a back end without kernels of bf16" "--precision bf16: expected a back end with such kernels, found ref" \
    train "$W/tiny.safetensors" --backend ref --precision bf16
expect_refusal "heads that do not divide" "multiple of n_kv_heads" \
    "$MSA" train --text "$W/text" --out "$W/tiny.safetensors" --kv-heads 2 --heads 3
[[ ! -e $W/tiny.safetensors && ! -e $W/tiny.csv ]]
check $? "refused runs write nothing"
train "$W/mean.safetensors" --selector mean > "$W.out" &&
    "$MSA" generate --model "$W/mean.safetensors" --prompt a > "$W.out" 2> "$W.err"
[[ $? -eq 2 ]] && grep -q "expected MSA's selector" "$W.err"
check $? "a decoding step chooses by MSA's rule, and generate refuses another"
expect_refusal "generate refuses an unknown precision" "--precision: expected float32 or bf16" \
    "$MSA" generate --model "$whole" --prompt a --precision float16
rm -f "$W"/cut.*
exec=exec train "$cut" > "$W.out" 2>&1 &
pid=$!
while kill -0 $pid 2> /dev/null && [[ ! -e $cut.train ]]; do sleep 0.01; done
kill -STOP $pid # a stopped process still holds its lock
expect_refusal "two runs do not write the same files" "no other run" train "$cut"
kill -KILL $pid
wait $pid 2> /dev/null

# ---- Files of others, and the curve -----------------------------------------------------------------------------

train() { # train OUT [OPTION...]: a moment's work
    "$MSA" train --text "$W/text" --out "$1" --steps 6 --context 32 --layers 1 --d-model 8 --heads 2 --kv-heads 1 \
        --d-head 4 --d-index 4 --d-ff 8 --block 4 --topk 2 --index-warmup 2 --save-every 2 "${@:2}"
}
mkdir "$W/x" && cd "$W/x" || exit 2
seq 500 > data.csv
ln -s data.csv link.csv
cp data.csv before
kept() { cmp -s data.csv before && [[ $(ls -A | tr '\n' ' ') == "$1" ]]; }
for out in data.safetensors data link.safetensors; do
    expect_refusal "a curve does not replace the file of another: --out $out" "${out%.safetensors}.csv: expected a" train $out
done
expect_refusal "nor the text itself" "data.csv: expected a name that is free" \
    "$MSA" train --text data.csv --out data.safetensors --context 32
expect_refusal "nor does a model" "data.csv: expected a name that is free" "$MSA" train --text "$W/text" --out data.csv --context 32
kept "before data.csv link.csv "
check $? "and all of them are as they were"
rm -f link.csv
train a.safetensors > "$W.out" && train .hidden > "$W.out"
check $? "two runs, one with a hidden name"
expect_refusal "a curve of another run" "a.csv: expected a name that is free for the loss curve" train a
[[ $(ls -A | tr '\n' ' ') == ".hidden .hidden.csv a.csv a.safetensors before data.csv " ]] && cmp -s a.csv .hidden.csv
check $? "each has its curve, and the names say whose"
train b.safetensors >&- 2> "$W.err"
[[ $? -eq 2 && ! -e b.safetensors ]] && cmp -s a.csv b.csv
check $? "what cannot be printed does not get into the curve"
train b.safetensors > "$W.out" && cmp -s a.csv b.csv && cmp -s a.safetensors b.safetensors
check $? "... and the model comes with what can be"

train h.safetensors --precision bf16 > "$W.out" && OMP_NUM_THREADS=1 train i.safetensors --precision bf16 > "$W.out" &&
    cmp -s h.safetensors i.safetensors && cmp -s h.csv i.csv && ! cmp -s h.safetensors a.safetensors
check $? "attention in bf16 ends elsewhere than in float32, and in the same bytes on one thread"

# A run that stops after some rows that its state does not know of: rows of a smaller number, torn ones, none.
cut() { # cut OUT [OPTION...]: stops in step 4, before its state is saved
    FAULT=rename:6 LD_PRELOAD=$inject train "$@" > "$W.out" 2>&1
    [[ -e $1.train && ! -e $1 ]]
}
inject=$OLDPWD/${B:-build}/tests/faults.so
if [[ -e $inject ]]; then
    cut c.safetensors
    check $? "a run that stops before it can save what it has done"
    cp c.safetensors.train state
    cp c.csv rows
    for tail in '' '4' '5,1.2' $'7,1,1,1,\n'; do
        cp state c.safetensors.train
        printf %s "$tail" | cat rows - > c.csv
        train c.safetensors > "$W.out" 2> "$W.err" && cmp -s c.csv a.csv && cmp -s c.safetensors a.safetensors
        check $? "its curve is mended: '${tail%$'\n'}' behind its rows"
        rm -f c.safetensors
    done
    for rows in "$(sed 2s/1/2/ rows)" "$(head -n 1 rows)" "$(cat data.csv)"; do
        cp state c.safetensors.train
        printf %s "$rows" > c.csv
        expect_refusal "a curve that is not this run's" "c.csv: expected the loss curve that the state" train c.safetensors
        [[ $(cat c.csv) == "$rows" ]] && cmp -s state c.safetensors.train
        check $? "... is left as it was"
    done
    cp rows c.csv
    expect_refusal "another number of columns" "another run: expected .* settings\|train.recall_every" train c.safetensors --recall-every 2
    expect_refusal "another back end" "another run: expected train.backend" train c.safetensors --backend ref
    echo mine > c.safetensors
    expect_refusal "a file in the place of the model" "name that is free" train c.safetensors
    [[ $(cat c.safetensors) == mine ]] && cmp -s rows c.csv && cmp -s state c.safetensors.train
    check $? "and none of them changes anything"
    rm c.safetensors
    train c.safetensors > "$W.out" && cmp -s c.csv a.csv
    check $? "the same words go on"
    cut j.safetensors --precision bf16
    check $? "a run in bf16 that stops on its way"
    expect_refusal "float32 does not go on with what bf16 began" "expected train.precision = float32, found bf16" train j.safetensors
    train j.safetensors --precision bf16 > "$W.out" && cmp -s j.safetensors h.safetensors && cmp -s j.csv h.csv
    check $? "bf16 does, and ends in the same bytes"
    FAULT=rename:8 LD_PRELOAD=$inject train d.safetensors > "$W.out" 2> "$W.err"
    grep -q '^msa train: \./d.safetensors: cannot write' "$W.err" && [[ -e d.safetensors.train && ! -e d.safetensors ]] && cp d.safetensors.train state && train d.safetensors > "$W.out" &&
        grep -q "continuing after step 6" "$W.out" && cmp -s d.csv a.csv && cmp -s d.safetensors a.safetensors
    check $? "a run that stopped behind its last step only writes its model"
    cp state d.safetensors.train
    train d.safetensors > "$W.out" && [[ ! -e d.safetensors.train ]] && cmp -s d.safetensors a.safetensors
    check $? "... and one that had written it only removes its state"
    cp state d.safetensors.train
    train e.safetensors --seed 2 > "$W.out" && mv e.safetensors d.safetensors && cp d.safetensors other
    expect_late_refusal "... but another model stays" "name that is free" train d.safetensors
    cmp -s d.safetensors other && cmp -s d.safetensors.train state
    check $? "... as it was"
else
    skip "curves that are cut off" "no library to load before the program"
fi
finish
