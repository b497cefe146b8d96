#!/usr/bin/env bash
# The test runner tested: what it must count as failed, what it must show, and its last line.
source "$(dirname "$0")/support/tap.sh"
unset SHARE PIECE # of the run that this test is part of

program() { # program NAME COMMANDS
    printf '#!/bin/sh\n%s\n' "$2" > "$W/$1"
    chmod +x "$W/$1"
}
verdict() { # verdict NAME STATUS LAST-LINE PATTERN-TO-SHOW
    tests/run.sh "$W/$1" > "$W.out" 2> "$W.err"
    [[ $? -eq $2 && $(tail -n 1 "$W.out") == "$3" ]] && grep -q -- "$4" "$W.out"
    check $? "$1: $3"
}

program passes 'echo "ok 1 - a"; echo "# a remark"; echo "ok 2 - b"; echo 1..2'
verdict passes 0 "2 passed, 0 failed, 0 skipped" '2 passed   0 failed'
! grep -q remark "$W.out"
check $? "the remarks of a program that passes stay out"
program skips 'echo "ok 1 - a # SKIP no card"; echo "ok 2 - b"; echo 1..2'
verdict skips 0 "1 passed, 0 failed, 1 skipped" 'skipped: a # SKIP no card'
program fails 'echo "ok 1 - a"; echo "# expected 1, found 2"; echo "not ok 2 - b"; echo 1..2; exit 1'
verdict fails 1 "1 passed, 1 failed, 0 skipped" 'not ok 2 - b'
grep -q 'expected 1, found 2' "$W.out"
check $? "the remark before a failed check is shown"
program forgets_status 'echo "not ok 1 - a"; echo 1..1'
verdict forgets_status 1 "0 passed, 1 failed, 0 skipped" 'not ok 1 - a'
program crashes 'echo "ok 1 - a"; kill -SEGV $$'
verdict crashes 1 "1 passed, 1 failed, 0 skipped" 'planned none'
program has_no_plan 'echo "ok 1 - a"'
verdict has_no_plan 1 "1 passed, 1 failed, 0 skipped" 'planned none'
program breaks_its_plan 'echo "ok 1 - a"; echo 1..2'
verdict breaks_its_plan 1 "1 passed, 1 failed, 0 skipped" 'planned 2 checks, saw 1'
program exits_badly 'echo "ok 1 - a"; echo 1..1; exit 3'
verdict exits_badly 1 "1 passed, 1 failed, 0 skipped" 'exit status 3'
program checks_nothing 'echo 1..0'
verdict checks_nothing 1 "0 passed, 1 failed, 0 skipped" 'no checks'
verdict is_absent 1 "0 passed, 1 failed, 0 skipped" 'exit status 127'
program hangs 'echo "ok 1 - a"; sleep 600; echo 1..1'
HANG_LOOKS=2 HANG_APART=1 verdict hangs 1 "1 passed, 1 failed, 0 skipped" 'exit status 124'
grep -q 'stopped: it has used no processor time in 2 s' "$W.out"
check $? "... and why is said"
program loops 'while true; do :; done'
HANG_ENDLESS=0 HANG_APART=1 verdict loops 1 "0 passed, 1 failed, 0 skipped" 'exit status 124'
program is_slow '(i=0; while [ $i -lt 300000 ]; do i=$((i + 1)); done); sleep 2; (i=0; while [ $i -lt 600000 ]; do i=$((i + 1)); done); echo "ok 1 - a"; echo 1..1'
HANG_LOOKS=10 HANG_APART=1 verdict is_slow 0 "1 passed, 0 failed, 0 skipped" is_slow
SHARE=2/2 tests/run.sh "$W/passes" "$W/fails" "$W/skips" > "$W.out"
[[ $? -eq 1 && $(tail -n 1 "$W.out") == "1 passed, 1 failed, 0 skipped" ]]
check $? "the second of two shares is every second program"
! SHARE=3/3 tests/run.sh "$W/passes" "$W/fails" > "$W.out" 2> "$W.err" && grep -q 'found 3/3 of 2' "$W.err"
check $? "a share without a program is no success"
tests/run.sh "$W/passes" "$W/fails" "$W/skips" > "$W.out"
[[ $? -eq 1 && $(tail -n 1 "$W.out") == "4 passed, 1 failed, 1 skipped" ]]
check $? "several programs are added up"
program slow 'sleep 0.5; echo "ok 1 - a"; echo 1..1'
TEST_JOBS=2 tests/run.sh "$W/slow" "$W/passes" "$W/skips" > "$W.out" && sed '$d; s/ .*//' "$W.out" | grep . | head -n 3 | tr '\n' ' ' | grep -q '^slow passes skips $'
check $? "what runs side by side is shown in the given order"
program sleeps "sleep 47.125; echo 'ok 1 - a'; echo 1..1"
tests/run.sh "$W/sleeps" > "$W.out" 2> "$W.err" &
until pgrep -f "^sleep 47.125" > "$W.started" || ! kill -0 $!; do sleep 0.1; done 2> /dev/null
kill -TERM $! && wait $!
[[ $? -eq 130 ]] && ! pgrep -f "^sleep 47.125" > "$W.out"
check $? "an interrupt ends what runs"
finish
