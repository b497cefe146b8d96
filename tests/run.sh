#!/usr/bin/env bash
# Runs test programs and scripts that print TAP: tests/run.sh build/tests/test_a tests/b.sh ...
# One line a program, then every failed check, every remark of a program that failed, and every reason to
# skip. A program that crashes, hangs, prints no plan or another number of checks than planned has failed.
# The last line is "N passed, N failed, N skipped"; the exit status is 1 if anything failed.
#
# Variables choose how much is tested. With FULL=1 no program leaves anything out. SHARE=2/5 takes the second of five
# shares of the programs, PIECE=2/5 of what one of them walks: mutants, or commands that meet faults. A program may
# have arguments behind it: "build/tests/test_kernels 1 dense/hopper". TEST_JOBS programs (2 where there are two
# cores) run at a time; what they print comes in the given order.
set -u

JOBS=${TEST_JOBS:-$(($(nproc) < 2 ? 1 : 2))}

# Threads that wait should sleep: on a busy machine spinning ones keep the cores from those that work. And the programs
# share the cores: more threads than those cost a tenth of the time. (With FULL=1 a program has all.)
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
[[ -n ${FULL:-} ]] || export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(($(nproc) > JOBS ? $(nproc) / JOBS : 1))}

results=$(mktemp -d) || exit 1
trap 'rm -rf "$results"' EXIT
stop() { # what runs in the background does not hear an interrupt
    local job
    for job in $(jobs -p); do
        pkill -TERM -P "$job"
    done 2> /dev/null
    wait
    exit 130
}
trap stop INT TERM

# Reads TAP on standard input into passed, failed, skipped, seen, plan and report (lines to show).
read_tap() {
    passed=0 failed=0 skipped=0 seen=0 plan=none report=()
    local line remarks=()
    while IFS= read -r line || [[ -n $line ]]; do
        case $line in
        "not ok"*) failed=$((failed + 1)) seen=$((seen + 1)) report+=("${remarks[@]}" "$line") remarks=() ;;
        ok*"# SKIP"*) skipped=$((skipped + 1)) seen=$((seen + 1)) report+=("skipped: ${line#ok * - }") remarks=() ;;
        ok*) passed=$((passed + 1)) seen=$((seen + 1)) remarks=() ;;
        1..*) plan=${line#1..} ;;
        *) remarks+=("$line") ;;
        esac
    done
    [[ $plan == "$seen" ]] || report+=("${remarks[@]}") # what a crash had to say
}

run_one() { # run_one PROGRAM FILE: its line and remarks into FILE, its counts into FILE.counts
    local program name output=$2.tap status start=${EPOCHREALTIME/[.,]/} seconds
    read -r -a program <<<"$1"
    name=${program[*]:1} name=${program[0]##*/}${name:+ $name}
    case $program in
    *.sh) tests/support/watched.sh bash "${program[@]}" >"$output" 2>&1 ;;
    *) tests/support/watched.sh "${program[@]}" >"$output" 2>&1 ;;
    esac
    status=$?
    seconds=$(((${EPOCHREALTIME/[.,]/} - start) / 100000))
    read_tap <"$output"
    if [[ $plan != "$seen" ]]; then
        failed=$((failed + 1))
        report+=("not ok - planned $plan checks, saw $seen, exit status $status")
    elif [[ $status -ne 0 && $failed -eq 0 ]]; then
        failed=$((failed + 1))
        report+=("not ok - exit status $status")
    elif [[ $seen -eq 0 ]]; then
        failed=$((failed + 1))
        report+=("not ok - no checks")
    fi
    {
        printf '%-22s %4d passed %3d failed %3d skipped %5d.%d s\n' "$name" "$passed" "$failed" "$skipped" $((seconds / 10)) $((seconds % 10))
        [[ ${#report[@]} -eq 0 ]] || printf '    %s\n' "${report[@]}"
    } >"$2"
    echo "$passed $failed $skipped" >"$2.counts"
}

if [[ $# -eq 0 ]]; then
    echo "usage: tests/run.sh PROGRAM..." >&2
    exit 2
fi
shown=0 started=0 total_passed=0 total_failed=0 total_skipped=0
show() { # what has ended and has nothing before it that runs
    while [[ -e $results/$shown.counts ]]; do
        cat "$results/$shown"
        read -r passed failed skipped <"$results/$shown.counts"
        total_passed=$((total_passed + passed)) total_failed=$((total_failed + failed)) total_skipped=$((total_skipped + skipped))
        shown=$((shown + 1))
    done
}
share=${SHARE:-1/1}
for ((i = ${share%/*}; i <= $#; i += ${share#*/})); do
    program=${!i}
    if [[ $started -ge $JOBS ]]; then
        wait -n
        show
    fi
    run_one "$program" "$results/$started" &
    started=$((started + 1))
done
wait
show
if [[ $started -eq 0 ]]; then
    echo "tests/run.sh: SHARE: expected a share that holds a program, found $share of $#" >&2
    exit 1
fi
echo "$total_passed passed, $total_failed failed, $total_skipped skipped"
[[ $total_failed -eq 0 ]]
