#!/usr/bin/env bash
# Training that is stopped ends in the same bytes as training that is not: by a signal it may handle, by
# SIGKILL at random moments (KILLS of them, default 20; the seed is printed), and with another thread count.
set -u
msa=${MSA:-build/msa} kills=${KILLS:-20} seed=${MSA_SEED:-$RANDOM}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
RANDOM=$seed
n=0 failed=0

check() { # check CONDITION-STATUS NAME
    n=$((n + 1))
    if [[ $1 -eq 0 ]]; then echo "ok $n - $2"; else echo "not ok $n - $2"; failed=1; fi
}

if "$msa" train --text /dev/null --out "$work/x.safetensors" 2>&1 | grep -q jansson; then
    echo "ok 1 - resuming # SKIP this build has no jansson, so no checkpoints"
    echo "1..1"
    exit 0
fi

for i in $(seq 2500); do echo "line $i of a text that is the same on every machine: $((i * i % 1009))"; done > "$work/text"
train() { # train OUT [OPTION...]; in the background `exec` makes $! the program itself
    ${exec-} "$msa" train --text "$work/text" --out "$1" --steps 120 --context 64 --layers 2 --d-model 16 --heads 2 \
        --kv-heads 1 --d-head 8 --d-index 8 --d-ff 24 --block 8 --topk 3 --index-warmup 30 --save-every 2 "${@:2}"
}
whole=$work/whole.safetensors cut=$work/cut.safetensors
same() { cmp -s "$whole" "$cut" && cmp -s "$work/whole.csv" "$work/cut.csv"; }

echo "seed $seed (MSA_SEED=$seed replays it)"
train "$whole" > "$work/log"
check $? "a run from start to end"

OMP_NUM_THREADS=1 train "$cut" > "$work/log"
same
check $? "one thread and all threads end in the same bytes"
rm -f "$work"/cut.*

# Starts a run, waits until it has done some steps, and sends it a signal; 1 if it finished before that.
interrupt() { # interrupt SIGNAL SECONDS-AFTER-THE-FIRST-STEPS
    exec=exec train "$cut" > "$work/log" 2>&1 &
    local pid=$!
    while kill -0 $pid 2> /dev/null && [[ ! -e $cut.train ]]; do sleep 0.01; done
    sleep "$2"
    kill "-$1" $pid 2> /dev/null
    wait $pid 2> /dev/null
}

interrupt INT 0.02
status=$?
[[ $status -eq 130 && -e $cut.train && ! -e $cut ]] && grep -q "stopped after step" "$work/log"
check $? "an interrupt leaves a state and says so"
train "$cut" > "$work/log" && same
check $? "going on after an interrupt ends in the same bytes"
[[ ! -e $cut.train ]]
check $? "a finished run leaves no state behind"

killed=0 wrong=0 finished=0
rm -f "$work"/cut.*
while [[ $killed -lt $kills ]]; do
    interrupt KILL "0.$(printf '%03d' $((RANDOM % 120)))"
    if [[ $? -eq 137 ]]; then
        killed=$((killed + 1))
    else
        finished=$((finished + 1))
        same || wrong=$((wrong + 1))
        rm -f "$work"/cut.*
    fi
done
train "$cut" > "$work/log" && same && [[ $wrong -eq 0 ]]
check $? "killed $killed times (between which $finished runs finished): the same bytes"

expect_refusal() { # expect_refusal NAME PATTERN COMMAND...
    "${@:3}" > "$work/out" 2> "$work/err"
    local status=$?
    [[ $status -eq 2 && $(wc -l < "$work/err") -eq 1 && ! -s $work/out ]] && grep -q -- "$2" "$work/err"
    check $? "$1"
}
expect_refusal "a finished model is not overwritten" "name that is free" train "$cut"
rm -f "$work"/cut.*
interrupt INT 0.02
if [[ -e $cut.train ]]; then
    before=$(cksum < "$cut.train")
    expect_refusal "a state of another learning rate" "another run: expected train.lr" train "$cut" --lr 0.001
    expect_refusal "a state of another kind of attention" "another run: expected sparse" train "$cut" --attention gqa
    echo "one more line" >> "$work/text"
    expect_refusal "a state of another text" "another run: expected train.text" train "$cut"
    [[ $(cksum < "$cut.train") == "$before" ]]
    check $? "refusing leaves the state as it was"
    head -c 1000 "$cut.train" > "$work/short" && mv "$work/short" "$cut.train"
    expect_refusal "a truncated state" "cut.safetensors.train" train "$cut"
else
    check 1 "an interrupt leaves a state"
fi
head -c 20 "$work/text" > "$work/tiny"
expect_refusal "a text shorter than the context" "expected more than" \
    "$msa" train --text "$work/tiny" --out "$work/tiny.safetensors"
expect_refusal "no such text" "--text" "$msa" train --text "$work/none" --out "$work/tiny.safetensors"
expect_refusal "an unknown kind of attention" "--attention" train "$work/tiny.safetensors" --attention both
expect_refusal "heads that do not divide" "multiple of n_kv_heads" \
    "$msa" train --text "$work/text" --out "$work/tiny.safetensors" --kv-heads 2 --heads 3
[[ ! -e $work/tiny.safetensors && ! -e $work/tiny.csv ]]
check $? "refused runs write nothing"
rm -f "$work"/cut.*
interrupt STOP 0.02 & # a stopped process still holds its lock
sleep 1
expect_refusal "two runs do not write the same files" "no other run" train "$cut"
pkill -KILL -f "$cut"
echo "1..$n"
exit $failed
