#!/usr/bin/env bash
# What a failing machine does to every command: an allocation or a write fails, the first and the last from every chain
# of callers, alone or with all that follow; the N-th flush, close, rename or opening of a file for writing fails, for every
# N; memory is short, the disk full, a descriptor closed; a signal arrives in the middle. Each time the command ends with 2
# and one line, or with 0 and its whole result; the files that were there before are what they were, or all new; nothing
# else is left. A sample by default; FULL=1 walks everything (make test-faults), PIECE=2/5 only a fifth of the commands
# (1/5 also has what is not walked).
source "$(dirname "$0")/support/tap.sh"
source tests/support/npy.sh
source tests/support/published.sh
all=${FULL-} piece=${PIECE:-1/1}
inject=$PWD/${B:-build}/tests/faults.so
export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive
if [[ ! -e $inject ]] || ! FAULT=alloc:1000000 LD_PRELOAD=$inject "$MSA" version > "$W.out" 2>&1; then
    skip "faults" "nothing can be loaded before this program (a sanitizer, or another C library)"
    finish
fi

# ---- The commands, on inputs as small as they take ---------------------------------------------------------

V=$PWD/data/vectors/prefix
in=(--q "$V/q.npy" --k "$V/k.npy" --v "$V/v.npy" --qi "$V/qi.npy" --ki "$V/ki.npy" --block 8 --topk 3)
payload "$V/q.npy" | head -c 256 | npy "$W/q.npy" '<f4' '(1, 1, 4, 16)'
payload "$V/qi.npy" | head -c 64 | npy "$W/qi.npy" '<f4' '(1, 1, 2, 8)'
for x in k v; do payload "$V/$x.npy" | head -c 2048 | npy "$W/$x.npy" '<f4' '(2, 2, 8, 16)'; done
payload "$V/ki.npy" | head -c 512 | npy "$W/ki.npy" '<f4' '(2, 8, 8)'
le32 0 1 | npy "$W/table.npy" '<i4' '(1, 2)'
le32 16 | npy "$W/lens.npy" '<i4' '(1,)'
step=(--q "$W/q.npy" --qi "$W/qi.npy" --k-pages "$W/k.npy" --v-pages "$W/v.npy" --ki-pages "$W/ki.npy" --page-table "$W/table.npy"
    --lens "$W/lens.npy" --topk 1)
zeros 1024 | npy "$W/wide-q.npy" '<f4' '(8, 2, 64)'
zeros 512 | npy "$W/wide-qi.npy" '<f4' '(8, 1, 64)'
for x in k v; do zeros 4096 | npy "$W/wide-$x.npy" '<f4' '(64, 1, 64)'; done
zeros 4096 | npy "$W/wide-ki.npy" '<f4' '(64, 64)'
wide=(--block 32 --topk 1)
for x in q k v qi ki; do wide+=(--$x "$W/wide-$x.npy"); done
small=(--shape 'T=1 S=32 heads=1:1 width=64:64 block=32 topk=1')
seq 700 > "$W/text"
train() { # train OUT
    "$MSA" train --text "$W/text" --out "$1" --steps 3 --context 32 --layers 1 --d-model 8 --heads 2 --kv-heads 1 \
        --d-head 4 --d-index 4 --d-ff 8 --block 4 --topk 2 --index-warmup 1 --save-every 1 --recall-every 2
}
commands=(forward backward dense decode decode-fp8 verify recall cost dump dump-captured)
mkdir -p "$W/captured/layer00" "$W/captured/layer01"
for x in q k qi ki; do cp "$V/$x.npy" "$W/captured/layer00" && cp "$V/$x.npy" "$W/captured/layer01"; done
mkdir "$W/m3"
printf '%s' "$m3_nested" > "$W/m3/config.json"
printf '%s' "$m3_index" > "$W/m3/model.safetensors.index.json"
safetensors_seed "$m3_header" "$m3_bytes" > "$W/m3/a.safetensors"
zeros 6 | npy "$W/hidden.npy" '<f4' '(3, 2)'
if has_models; then
    train "$W/model.safetensors" > "$W.out"
    commands+=(train resume evaluate evaluate-task generate dump-model demo layer inspect)
fi
if "$MSA" kernels | grep -q '^dense/naive.*simt'; then
    commands+=(forward-simt backward-simt count timeline)
fi
commands+=(check bench results kernels help)
model=(--model "$W/model.safetensors" --text "$W/text")

run() { # run COMMAND DIR: everything it writes goes below DIR, which exists
    case $1 in
    forward) "$MSA" forward "${in[@]}" --scores --out "$2/out" ;;
    forward-simt) "$MSA" forward "${wide[@]}" --backend simt --out "$2/out" ;;
    backward) "$MSA" backward "${in[@]}" --dout "$V/dout.npy" --out "$2/out" ;;
    backward-simt) "$MSA" backward "${wide[@]}" --dout "$W/wide-q.npy" --backend simt --out "$2/out" ;;
    dense) "$MSA" dense "${in[@]:0:6}" --backend fast --out "$2/out" ;;
    decode) "$MSA" decode "${step[@]}" --backend fast --out "$2/out" ;;
    decode-fp8) "$MSA" decode "${step[@]}" --index-keys fp8 --out "$2/out" ;;
    verify) "$MSA" verify "${in[@]:0:12}" --ids "$V/ids.npy" --o "$V/o.npy" ;;
    recall) "$MSA" recall "${in[@]:0:4}" "${in[@]:6}" --fp8 ;;
    cost) "$MSA" cost --csv "$2/cost.csv" ;;
    dump) "$MSA" dump "${in[@]:0:4}" "${in[@]:6}" --out "$2/out" ;;
    dump-captured) "$MSA" dump --captured "$W/captured" --layers 0,1 --block 8 --topk 3 --out "$2/out" ;;
    dump-model) "$MSA" dump "${model[@]}" --out "$2/out" ;;
    layer) "$MSA" layer --checkpoint "$W/m3" --layer 1 --hidden "$W/hidden.npy" --residual --out "$2/out" ;;
    inspect) "$MSA" inspect "$W/m3" ;;
    demo) "$MSA" demo "${model[@]}" --out "$2/out" ;;
    train) train "$2/m.safetensors" ;;
    resume) train "$2/m.safetensors" ;;
    evaluate) "$MSA" evaluate "${model[@]}" --fp8 --reuse --windows 2 --recall-windows 1 ;;
    evaluate-task) "$MSA" evaluate --model "$W/model.safetensors" --task --csv --windows 2 --recall-windows 1 ;;
    generate) "$MSA" generate --model "$W/model.safetensors" --prompt abc --tokens 3 ;;
    count) "$MSA" count dense/naive index/naive "${small[@]}" --csv "$2/count.csv" ;;
    timeline) "$MSA" timeline index/wgmma --shape 'T=1 S=32 heads=1:1 width=64:64 block=32 topk=1' --out "$2/lanes.svg" ;;
    check) "$MSA" check sparse/tiles --shape 'T=8 S=32 heads=2:1 width=16:8 block=8 topk=2' ;;
    bench) "$MSA" bench sparse/tiles --shape 'T=8 S=32 heads=2:1 width=16:8 block=8 topk=2' --seconds 0.01 --no-ceilings \
        --json "$2/bench.json" ;;
    results) "$MSA" results data/bench/*.json ;;
    *) "$MSA" "$1" ;;
    esac
}
is_training() { [[ $1 == train || $1 == resume ]]; } # keeps what it has done, and refuses to do it twice
is_timed() { [[ $1 == bench || $1 == check ]]; } # says something else each time

# ---- One faulted run ------------------------------------------------------------------------------------------

sums() { (cd "$1" && find . | sort && find . -type f -exec cksum {} + | sort); }
prepare() { # prepare COMMAND: what was there before, in old/; its sums and those of the whole result; what is printed
    rm -rf "$W/dir" "$W/old"
    mkdir "$W/dir" "$W/old"
    if [[ $1 == resume ]]; then # between two steps: the state and the curve of the first
        FAULT=rename:4 LD_PRELOAD=$inject train "$W/old/m.safetensors" > "$W.out" 2>&1
        cp -r "$W/old/." "$W/dir"
    fi
    run "$1" "$W/dir" > "$W.whole" 2> "$W.err" || return
    if compgen -G "$W/dir/out/*.sha256" > "$W.out"; then # which names what still earlier ones have left, and goes on to
        echo '# earlier' | tee -a "$W"/dir/out/*.sha256 > "$W.out"
        run "$1" "$W/dir" > "$W.whole" 2> "$W.err" || return
    fi
    new=$(sums "$W/dir")
    if ! is_training "$1"; then
        cp -r "$W/dir/." "$W/old"
        find "$W/old" -type f ! -name '*.sha256' | while read -r f; do echo old > "$f"; done
    fi
    old=$(sums "$W/old")
}
# OpenMP and the Fortran library of OpenBLAS have words of their own for an allocation that fails in them, with a line
# break more.
lines() { grep -vc -e '^$' -e '^Operating system error: Cannot allocate memory$' "$W.err"; }
went_wrong() { # went_wrong COMMAND FAULT: prints what is wrong with the run that ended with $status
    local now
    now=$(sums "$W/dir")
    case $status in
    0)
        [[ ! -s $W.err ]] || echo "$2: success, and: $(head -c 200 "$W.err")"
        is_timed "$1" || [[ $now == "$new" ]] || echo "$2: success without the whole result"
        is_timed "$1" || cmp -s "$W.out" "$W.whole" || echo "$2: success, and prints something else"
        ;;
    2)
        [[ $(lines) -eq 1 ]] || echo "$2: ends with 2 and $(lines) lines: $(head -c 200 "$W.err")"
        [[ $now == "$old" || $(stepped "$1") == yes ]] || echo "$2: ends with 2, files are not the old ones: $(diff <(echo "$old") <(echo "$now") | tr '\n' '|' | head -c 300)"
        ;;
    *) echo "$2: ends with $status: $(head -c 200 "$W.err")" ;;
    esac
}
# A training run that stops keeps what it has done, and going on from there ends in the same bytes.
stepped() {
    is_training "$1" || return
    [[ ! -e $W/dir/m.safetensors ]] && ! compgen -G "$W/dir/.msa-*" > /dev/null && run "$1" "$W/dir" > /dev/null 2>&1 && [[ $(sums "$W/dir") == "$new" ]] && echo yes
}
try() { # try COMMAND WORDS...: with these words before it, in a copy of the old files; sets status
    rm -rf "$W/dir" "$W.came"
    cp -r "$W/old" "$W/dir"
    (
        "${@:2}"
        FAULT_LOG=$W.came
        export FAULT_LOG
        [[ -z ${FAULT-} ]] || export LD_PRELOAD=$inject FAULT
        run "$1" "$W/dir" > "$W.out" 2> "$W.err"
    )
    status=$?
}
list() { # list COMMAND: where its calls come from, to be asked by `firsts`, `edges` and `every`
    FAULT=places try "$1" true
    mv "$W.came" "$W.places"
}
firsts() { awk -v kind="$1" '$1 == kind { print $2 }' "$W.places" | sort -n; }
edges() { awk -v kind="$1" '$1 == kind { print $2; print $3 }' "$W.places" | sort -nu | sample 60; }
every() { seq "$(awk -v kind="$1" '$1 == kind && $3 > n { n = $3 } END { print n + 0 }' "$W.places")" | sample 3; }
sample() { awk -v step="$1" -v all="$all" 'all || NR % step == 1'; } # of lines one in so many
walk() { # walk COMMAND KIND N...: prints what is wrong when the N-th of them fails; "N+", when all from there on do
    local n wrong=
    for n in "${@:3}"; do
        FAULT=$2:$n try "$1" ulimit -t 60
        wrong+=$(went_wrong "$1" "$2:$n")
        [[ ${#wrong} -lt 1000 ]] || break
    done
    echo -n "$wrong"
}

walk_signals() { # walk_signals COMMAND SIGNAL...: before the N-th call that changes files; prints what went wrong
    local n signal now
    for signal in "${@:2}"; do
        for n in $(every kill); do
            FAULT=kill:$n try "$1" export FAULT_SIGNAL="$signal"
            now=$(sums "$W/dir")
            if is_timed "$1"; then # a new file is told by its words alone
                [[ $now == "$old" || ($signal == 9 && $(grep -v /.msa- <<< "$now") == "$old") ]] || "$MSA" results "$W/dir/bench.json" > "$W.out" 2>&1 ||
                    echo "signal $signal at $n: neither the old file nor a new one"
            elif [[ $now != "$old" && $now != "$new" ]]; then
                [[ $signal == 9 ]] || is_training "$1" || echo "signal $signal at $n: files are mixed"
                # A set that was cut off is seen to be: its sums are missing or wrong.
                ! (cd "$W/dir/out" && sha256sum -c ./*.sha256) > /dev/null 2>&1 ||
                    [[ $(grep -v /.msa- <<< "$now") == "$new" ]] || echo "signal $signal at $n: half a set looks whole"
            fi
            if ! is_timed "$1" && ! { is_training "$1" && [[ $now == "$new" ]]; }; then
                run "$1" "$W/dir" > "$W.out" 2> "$W.err"
                [[ $? -eq 0 && $(sums "$W/dir") == "$new" ]] || echo "signal $signal at $n: the next run does not mend it"
            fi
        done
    done
}

# ---- Calls that fail, and signals -----------------------------------------------------------------------------

for ((i = ${piece%/*} - 1; i < ${#commands[@]}; i += ${piece#*/})); do
    command=${commands[i]}
    if ! prepare "$command"; then
        check 1 "$command: runs without a fault"
        continue
    fi
    FAULT=flush try "$command" true
    wrong=$(went_wrong "$command" "every file is flushed")
    FAULT=heap try "$command" true
    wrong+=$(went_wrong "$command" "memory and descriptors")
    list "$command"
    wrong+=$(walk "$command" alloc $(edges alloc))
    case $command in
    forward | cost | train | resume) files=yes ;;
    *) files=$all ;; # the same code writes them
    esac
    [[ ! $files ]] || wrong+=$(walk "$command" write $(edges write))
    for kind in ${files:+sync close rename open}; do
        wrong+=$(walk "$command" $kind $(every $kind))
    done
    [[ $command != generate && ! $all ]] || wrong+=$(walk "$command" print $(every print))
    if [[ $all || $command == backward ]]; then
        wrong+=$(walk "$command" alloc $(firsts alloc | sample 10 | sed 's/$/+/'))
        wrong+=$(walk "$command" map $(firsts map | sed 's/$/+/'))
    fi
    case $command in
    forward) wrong+=$(walk_signals forward 9 15 ${all:+2}) ;;
    cost) wrong+=$(walk_signals cost 9 15) ;;
    *) wrong+=${all:+$(walk_signals "$command" 9 15)} ;;
    esac
    echo "$wrong" > "$W.out"
    : > "$W.err"
    [[ -z $wrong ]]
    check $? "$command: whatever call fails"
done
[[ $piece == 1/* ]] || finish

# What is turned down leaves nothing behind either.
for program in test_io_npy test_io_safetensors test_io_picture test_model; do
    FAULT=heap LD_PRELOAD=$inject "${B:-build}/tests/$program" > "$W.out" 2> "$W.err"
    check $? "$program: nothing written behind a block, no block or descriptor left"
done

# ---- Descriptors, a full disk, little memory --------------------------------------------------------------------

ends() { # ends NAME: with 2 and one line, the old files as they were
    [[ $status -eq 2 && $(lines) -eq 1 && $(sums "$W/dir") == "$old" ]]
    check $? "$1"
}
prepare cost
for fd in 0 1 2; do
    rm -rf "$W/dir" && cp -r "$W/old" "$W/dir"
    case $fd in
    0) "$MSA" cost --csv "$W/dir/cost.csv" <&- > "$W.out" 2> "$W.err" ;;
    1) "$MSA" cost --csv "$W/dir/cost.csv" >&- 2> "$W.err" ;;
    2) "$MSA" cost --csv "$W/dir/cost.csv" > "$W.out" 2>&- ;;
    esac
    status=$?
    if [[ $fd == 1 ]]; then
        ends "descriptor 1 is closed: the file is not replaced"
    else
        [[ $status -eq 0 && $(sums "$W/dir") == "$new" ]]
        check $? "descriptor $fd is closed: nothing is printed into the file"
    fi
done
for command in cost forward; do
    prepare $command
    rm -rf "$W/dir" && cp -r "$W/old" "$W/dir"
    run $command "$W/dir" 2> "$W.err" > /dev/full
    status=$?
    ends "$command: standard output is full, no file is replaced"
done
FAULT=kill:3 FAULT_SIGNAL=15 try forward trap '' TERM
[[ $status -eq 0 && -e $W.came && $(sums "$W/dir") == "$new" ]]
check $? "a signal that the caller ignores"
try forward ulimit -f 1
ends "no room for a file"
for command in forward $(has_models && echo evaluate); do
    prepare "$command"
    for kilobytes in 20000 40000 60000 80000 120000 200000 300000 600000; do
        try "$command" ulimit -v $kilobytes
        [[ $status -eq 0 ]] && ! grep -qi nan "$W.out" && [[ $(sums "$W/dir") == "$new" ]] ||
            { [[ ($status -eq 2 && $(lines) -eq 1 || $status -eq 127) && $(sums "$W/dir") == "$old" ]] && ! grep -qE '^$|need of 0\.0' "$W.err"; }
        check $? "$command in ${kilobytes} KB"
    done
done
finish
