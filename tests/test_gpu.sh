#!/usr/bin/env bash
# make gpu without a GPU: a program stands in for msa, says that it has one and takes down what it is asked. Its "GPU" answers
# wrong, hangs, crashes, gets lost, and the script is killed at every step: what was found stays, and the next run goes on.
source "$(dirname "$0")/support/tap.sh"
P=$W/play
mkdir -p "$P/build/tests" "$P/bin"
export PLAY=$P B=$P/build REST=0

# ---- The stand-ins -------------------------------------------------------------------------------------------------

# check NAME: wrong, for good, crash as $PLAY/KERNEL.check says; bench NAME likewise by $PLAY/RUN.KERNEL. "once" files
# are used up: the script above is killed, before the work or after it.
"$MSA" kernels | awk -F '\t' '$2 ~ /simt/ {print $1 "\tcuda"}' > "$P/kernels"
cat > "$P/msa" << 'END'
#!/usr/bin/env bash
act() { # act FILE: what it says is to happen
    case $(cat "$PLAY/$1" 2> /dev/null) in
    wrong) echo "$kernel FAILED: it differs" && exit 1 ;;
    hang) touch "$PLAY/hangs" && exec sleep 60 ;;
    crash) kill -SEGV $$ ;;
    memory) echo "msa bench: $kernel on cuda: expected it to be judged and timed, found: no memory for this shape" >&2 && exit 2 ;;
    lost) touch "$PLAY/gone" && exit 2 ;;
    full) touch "$PLAY/no_room" && echo "msa bench: --json: No space left on device" >&2 && exit 2 ;;
    half) printf '{\n  "device":' > "$json" && exit 0 ;;
    kill) rm "$PLAY/$1" && kill -KILL "$(ps -o ppid= -p $PPID)" && exit 2 ;;
    esac
}
command=$1 kernel=$2
[[ $command != check ]] || kernel=$4
case $command in
kernels) cat "$PLAY/kernels" ;;
check)
    [[ ! -e $PLAY/gone ]] || { echo "msa check: an unknown error" >&2 && exit 2; }
    [[ ! -e $PLAY/missing ]] || { echo "msa check: --backend cuda: expected a GPU, found $(cat "$PLAY/missing")" >&2 && exit 2; }
    [[ $* == *--shape* ]] || echo "check $kernel" >> "$PLAY/runs"
    [[ $* == *--shape* ]] || act "check.${kernel/\//-}"
    echo "12 ok" ;;
timeline) [[ ! -e $PLAY/timeline ]] || cat "$PLAY/timeline" ;;
tune)
    for file do :; done
    echo "$@" >> "$PLAY/runs"
    [[ -z $MSA_TUNING ]] || exit 9
    act tune
    echo values > "$file"
    if [[ -e $PLAY/more ]]; then rm "$PLAY/more" && echo "left: 3 values"; else echo "1 of 10 parameters are not their presets: kv_outer_chunk 8192"; fi ;;
bench)
    for json do :; done
    name=$(basename "$json" .json)
    [[ $name == tuned* && -e $MSA_TUNING || $name != tuned* && -z $MSA_TUNING ]] || exit 9 # its values, or presets
    echo "$@" >> "$PLAY/runs"
    act "bench.$name"
    ms=$(cat "$PLAY/ms.$name" 2> /dev/null || echo 1.5)
    stage=${kernel%/*} plus=
    [[ $* != *--kl* ]] || plus=+kl
    cat > "$json" << JSON
{
  "device": "a stand-in",
  "driver": "1",
  "cuda": "12.4",
  "commit": "c",
  "date": "2026-01-01T00:00:00Z",
  "command": "msa bench",
  "ceilings": {
    "matmul_bf16_tflops": ${PRODUCT:-500},
    "copy_gbps": 4000
  },
  "results": [
    {
      "stage": "$stage",
      "kernel": "${kernel#*/}$plus",
      "dtype": "bf16",
      "n": 9,
      "n_q": 9,
      "batch": 1,
      "n_heads": 4,
      "n_kv_heads": 2,
      "d_head": 64,
      "block": 32,
      "topk": 4,
      "distribution": "hot",
      "union8": 7.5,
      "index_dtype": null,
      "lse": false,
      "deterministic": null,
      "ms_median": $ms,
      "ms_min": $ms,
      "ms_max": $ms,
      "repeats": 20,
      "useful_tflops": 400,
      "gbps": 1800,
      "verified": true
    }
  ]
}
JSON
    act "after.$name"
    echo "timed" ;;
esac
END
cat > "$P/build/tests/test_instructions" << 'END'
#!/usr/bin/env bash
case $*:$(cat "$PLAY/probes" 2> /dev/null) in
1:*) printf 'ok 1 - engine: loads (12 verdicts)\nok 2 - engine: wgmma_ss, N = 8 (80 verdicts)\nok 3 - engine: a question: 5\n' ;;
"1 cuda:crash") kill -SEGV $$ ;;
"1 cuda wgmma"*:crash) kill -SEGV $$ ;;
*) echo "ok 1 - GPU equals engine" && echo 1..1 ;;
esac
END
# Python with PyTorch, whose attention is a fifth faster than ours.
cat > "$P/python" << 'END'
#!/usr/bin/env bash
[[ $1 != -c ]] || exit 0
awk '/^    {/ {row = ""; on = 1} on {row = row $0 "\n"} /^    }/ {on = 0; printf "%s,\n", substr(row, 1, length(row) - 1);
    sub(/"kernel": "[^"]*"/, "\"kernel\": \"peer:sdpa-cudnn\"", row); sub(/"ms_median": [0-9.]*/, "\"ms_median\": 1.2", row); printf "%s", row; next}
    !on {print}' "$2" > "$2.tmp" 2> /dev/null || awk 1 "$2" > /dev/null
[[ $2 != *gpu.py ]] || exec "$0" "$3"
mv "$2.tmp" "$2"
END
# What cannot be killed: no limit ends it.
cat > "$P/bin/timeout" << 'END'
#!/usr/bin/env bash
[[ $* != *"--backend cuda reverse/naive" ]] || exec sleep 14
exec /usr/bin/timeout "$@"
END
printf '#!/bin/sh\n[ ! -e "%s/gone" ] || { echo "Unable to determine the device handle" && exit 15; }\necho "H200, played"\n' "$P" > "$P/bin/nvidia-smi"
printf '#!/bin/sh\n[ ! -e "%s/no_room" ] || [ "$2" != 1048576 ] || exit 1\nexec %s "$@"\n' "$P" "$(command -v head)" > "$P/bin/head" # of a full disk
printf '#!/bin/sh\necho "========= ERROR SUMMARY: 3 errors"\nexit 9\n' > "$P/sanitizer"
chmod +x "$P/msa" "$P/python" "$P/build/tests/test_instructions" "$P"/bin/* "$P/sanitizer"

gpu() { # gpu DIR [NAME=VALUE...]: a run of the script
    local dir=$P/$1
    shift
    env MSA="$P/msa" PYTHON=false SANITIZER="$P/sanitizer" LIMIT=3 "$@" data/bench/cuda.sh "$dir" > "$W.out" 2> "$W.err"
}
ended() { # ended DIR STEP: its outcome in the table
    awk -F '\t' -v step="$2" '$3 == step && $4 != "begun" {print $4}' "$P/$1/cuda.tsv"
}
is() { # is DIR STEP OUTCOME
    [[ $(ended "$1" "$2") == "$3" ]]
    check $? "... $2: $3"
}
afresh() { # afresh: nothing goes wrong any more, and nothing has been asked
    rm -f "$P"/check.* "$P"/bench.* "$P"/tune "$P"/hangs "$P"/no_room "$P"/timeline "$P"/more "$P"/after.* "$P"/ms.* "$P"/gone "$P"/missing "$P"/probes "$P"/runs
}
says() { # says PATTERN: the last run
    grep -qE -- "$1" "$W.out"
    check $? "... and says: $1"
}

# ---- No GPU --------------------------------------------------------------------------------------------------------

for why in 'no CUDA device: none is visible' 'the CUDA device has compute capability 8.x, not 9.0 (Hopper)'; do
    echo "$why" > "$P/missing"
    gpu none
    [[ $? -eq 0 && $(cat "$W.out") == "gpu: nothing measured: $why" && ! -s $W.err && ! -e $P/none ]]
    check $? "one line, nothing written: $why"
done
afresh
gpu none GPU_BUDGET=soon
[[ $? -eq 2 && $(wc -l < "$W.err") -eq 1 ]]
check $? "GPU_BUDGET=soon is refused in a line"

# ---- The whole plan ------------------------------------------------------------------------------------------------

afresh
gpu whole GPU_BUDGET=30 LIMIT=60
status=$?
[[ $status -eq 0 ]]
check $? "the whole plan, on a GPU where all is well"
says '^left: 0 steps$'
grep '^bench' "$P/runs" > "$P/benches"
bad=
for tokens in 8192 16384 32768 65536 131072 262144 524288 1048576; do
    grep -qE "^bench dense/hopper .* T=$tokens S=$tokens heads=64:4 " "$P/benches" || bad+=" dense/$tokens"
    for kind in random hot local structured; do
        for kernel in reverse/scan sparse/union sparse/kv_outer prefill/union prefill/kv_outer prefill/auto; do
            grep -qE "^bench $kernel .* T=$tokens S=$tokens heads=64:4 .*--distribution $kind " "$P/benches" || bad+=" $kernel/$tokens/$kind"
        done
    done
done
[[ -z $bad ]]
check $? "... dense, reverse, sparse and prefill at 8K to 1M, all selections$bad"
for line in 'decode/swapped .* T=32 S=33554432 .* seqs=32 ' 'dense_decode/split .* T=8 S=8388608 ' 'decode/swapped .* T=8 S=8388608 .*--index-keys fp8' \
    'decode/swapped .* T=8 S=8388608 .*--index-keys int8' 'prefill/auto .* T=1048576 .*--distribution structured .*--index-keys int8' \
    'index/fused .* T=131072 .* topk=1 ' 'backward/deterministic .* T=131072 .*--kl' 'topk/columns .* T=524288 S=536870912 '; do
    grep -qE "^bench $line" "$P/benches"
    check $? "... and $line"
done
[[ $(sed 's/.*--json //' "$P/benches" | sort | uniq -d | wc -l) -eq 0 ]]
check $? "... each into a file of its own"
for name in $(awk '{print $2}' "$P/benches" | sort -u); do
    grep -q "^$name	" "$P/kernels" || bad+=" $name"
done
[[ -z $bad ]]
check $? "... by names that are in the table$bad"
[[ -z $(awk '{print $2}' "$P/benches" | sort -u | comm -13 - <(cut -f 1 "$P/kernels" | sort)) ]]
check $? "... and every kernel is timed somewhere"
awk '$1 != "tune" { if ($1 == "check") agreed[$2] = 1; else if (!($2 in agreed)) exit 1 }' "$P/runs"
check $? "... after it agreed with the reference, not before"
[[ $(head -n 2 "$P/runs" | cut -d ' ' -f 1-2) == $'check dense/hopper\nbench dense/hopper' ]]
check $? "... dense attention first"
[[ $(tail -n 44 "$P/whole/cuda.tsv" | grep -c 'reported') -eq 22 ]]
check $? "... the sanitizer's report last"
if "$MSA" results > /dev/null 2>&1; then
    "$MSA" results "$P/whole"/*.json > "$W.out" 2> "$W.err"
    check $? "msa results reads all its files"
else
    skip "msa results reads all its files" "no jansson here"
fi
# What the page holds its figures against.
awk -F ' [|] ' '!/^#/ {print $2}' data/bench/cuda_targets.txt | sed 's, / ,\n,' | while read -r _ run kernels; do
    [[ $kernels == *peer* ]] || ls "$P/whole" | sed -n "s/^$run\.\(.*\)\.json$/\1/p" | sed 's,-,/,' | grep -qE "^($kernels|${kernels%\.\*})$" || echo "$run $kernels"
done > "$W.out"
[[ ! -s $W.out ]]
check $? "every target names runs and kernels that the plan has"
grep -q '^| dense at 128K.* | not measured | ' "$P/whole/cuda.md" && [[ $(grep -c '| met |\|| MISSED |' "$P/whole/cuda.md") -eq $(($(grep -vc '^#' data/bench/cuda_targets.txt) - 1)) ]]
check $? "the page has a verdict on every target; but without peers none on dense"
lines=$(wc -l < "$P/runs")
gpu whole GPU_BUDGET=30 LIMIT=60
[[ $? -eq 0 && $(wc -l < "$P/runs") -eq $lines ]]
check $? "a second run does nothing again"
rm -r "$P/whole"

# ---- Figures and targets -------------------------------------------------------------------------------------------

afresh
echo 11 > "$P/ms.prefill-128k.dense-hopper"
echo 0.5 > "$P/ms.layer-128k-random.prefill-auto"
gpu figures PYTHON="$P/python" ONLY='^(prefill-128k|layer-128k-random|1024k-b8|peers)$' GPU_BUDGET=30 LIMIT=60
grep -qE '^\| prefill over the best dense, 128K, random \| >= 9 \| 2.4 \| MISSED \| ' "$P/figures/cuda.md"
check $? "a ratio is taken against the best dense kernel, here a peer: 1.2 / 0.5 is 2.4, and missed"
grep -qE '^\| dense at 128K.* \| >= 0.85 \| 0.109 \| MISSED \| ' "$P/figures/cuda.md" && grep -qE '^\| fused index at 128K.* \| 0.8 \| met \|' "$P/figures/cuda.md"
check $? "... a share of a peer's rate, and of the run's own ceiling"
grep -qE '^\| decode at 1M, batch 8, over dense \| >= 7.6 \| 0.5 \| MISSED' "$P/figures/cuda.md"
check $? "... and a slow dense step counts as what its bytes take: 1800 of 0.9 x 4000 GB/s halve it"
is figures "peers prefill-128k.dense-hopper" ok
printf '%s\n' 'dense/hopper               131072  H800, H100      395.540  L2           284.500   72%      380.000     +4%' \
    'index/fused                131072  H200              9.270  tensor         8.890   96%' 'error of the model: 4%, the mean of 1 measurements' > "$P/timeline"
gpu figures PYTHON="$P/python" ONLY='^(prefill-128k|layer-128k-random|1024k-b8|peers)$' GPU_BUDGET=30 LIMIT=60
[[ $(grep -A 2 '^| stage | tokens | predicted ms' "$P/figures/cuda.md" | tail -n 1) == '| dense/hopper | 131072 | 395.540 | L2 | 380.000 | +4% |' ]] &&
    grep -qx 'error of the model: 4%, the mean of 1 measurements' "$P/figures/cuda.md"
check $? "the page has what was predicted of what was measured, and the error of the model"
afresh
gpu blind PRODUCT=null ONLY='^prefill-128k$' GPU_BUDGET=30
says '^- NO CEILING in [1-9][0-9]* files: libcublas could not be loaded'
grep -qE '^\| fused index at 128K.* \|  \| not measured \|' "$P/blind/cuda.md"
check $? "... a share of it is not measured then"

# ---- A GPU that fails ----------------------------------------------------------------------------------------------

afresh
echo crash > "$P/probes"
echo wrong > "$P/check.topk-columns"
echo hang > "$P/check.reverse-scan"
echo crash > "$P/bench.layer-128k-hot.sparse-union"
echo hang > "$P/bench.layer-128k-hot.sparse-kv_outer"
echo wrong > "$P/bench.prefill-128k.index-fused"
echo memory > "$P/bench.prefill-128k.dense-hopper"
gpu bad PATH="$P/bin:$PATH" ONLY='^(prefill-128k|layer-128k-hot|paper-1024|chunk-128k)$' LIMIT=2 GPU_BUDGET=30
[[ $? -eq 1 ]]
check $? "kernels that answer wrong, hang and crash: the rest is measured, and the status is 1"
is bad "instructions all" crashed
is bad "instructions loads" ok
is bad "instructions wgmma_ss, N = 8" crashed
is bad "agree topk/columns" wrong
is bad "agree reverse/scan" hung
is bad "agree reverse/naive" hung
is bad "bench layer-128k-hot.sparse-union" crashed
is bad "bench layer-128k-hot.sparse-kv_outer" hung
is bad "bench prefill-128k.index-fused" wrong
is bad "bench prefill-128k.dense-hopper" "left out"
is bad "bench layer-128k-hot.prefill-auto" ok
[[ -e $P/bad/layer-128k-hot.prefill-auto.json && ! -e $P/bad/layer-128k-hot.sparse-union.json && ! -e $P/bad/prefill-128k.index-fused.json ]]
check $? "... a file for what is right, none for what is not"
! grep -qE '^bench (topk/columns|reverse/(scan|naive))' "$P/runs" && grep -q '^bench topk/staged' "$P/runs"
check $? "... what does not agree is not timed; the others of its stage are"
says '^- NOT PASSED: agree topk/columns: wrong: topk/columns FAILED: it differs$'
says '^- NOT PASSED: agree reverse/scan: hung: no end within 2 s$'
says '^- NOT PASSED: bench layer-128k-hot.sparse-union: crashed: exit status 139'
says '^left: 0 steps$'

afresh
echo lost > "$P/bench.layer-128k-random.prefill-auto"
gpu lost PATH="$P/bin:$PATH" ONLY='^(prefill-128k|layer-128k-random)$' GPU_BUDGET=30
[[ $? -eq 1 ]]
check $? "a device that is lost ends the run"
says '^gpu: stopped: the GPU does not answer after: bench layer-128k-random.prefill-auto$'
is lost "bench prefill-128k.dense-hopper" ok
gpu lost PATH="$P/bin:$PATH" ONLY='^(prefill-128k|layer-128k-random)$' GPU_BUDGET=30
[[ $? -eq 1 ]] && grep -q '^gpu: stopped: the GPU does not answer' "$W.out" && grep -q '^- kernels and shapes timed.*: 1; ' "$W.out"
check $? "... while it is away, the page says what there is"
rm "$P/gone"
gpu lost PATH="$P/bin:$PATH" ONLY='^(prefill-128k|layer-128k-random)$' GPU_BUDGET=30
is lost "bench layer-128k-random.sparse-union" ok
[[ $(grep -c '^bench prefill/auto' "$P/runs") -eq 1 ]]
check $? "... when it is back the rest is done, and not what lost it"

[[ $(cut -f 1 "$P/lost/cuda.tsv" | sort -u) == *" H200, played" ]]
check $? "... all of it on record as one device's"

# ---- A disk that is full -------------------------------------------------------------------------------------------

afresh
touch "$P/no_room"
gpu full PATH="$P/bin:$PATH" ONLY='^prefill-128k$' GPU_BUDGET=30
[[ $? -eq 1 && ! -e $P/runs ]] && grep -q '^gpu: stopped: no room is left in ' "$W.out"
check $? "without room for what is found nothing is begun"
rm "$P/no_room"
echo full > "$P/bench.prefill-128k.dense-hopper"
echo half > "$P/bench.prefill-128k.index-fused"
gpu full PATH="$P/bin:$PATH" ONLY='^prefill-128k$' GPU_BUDGET=30
[[ $? -eq 1 && -z $(ended full "bench prefill-128k.dense-hopper") ]] && grep -q '^gpu: stopped: no room is left in ' "$W.out"
check $? "a step that fills the disk has not failed, and is the last"
rm "$P/no_room" "$P/bench.prefill-128k.dense-hopper"
gpu full PATH="$P/bin:$PATH" ONLY='^prefill-128k$' GPU_BUDGET=30
is full "bench prefill-128k.dense-hopper" ok
is full "bench prefill-128k.index-fused" refused
[[ ! -e $P/full/prefill-128k.index-fused.json && $(awk -F '\t' '$4 == "refused" {print $6}' "$P/full/cuda.tsv") == 'it left no whole file' ]]
check $? "... half a file is none, whatever its program says"

# ---- The budget ----------------------------------------------------------------------------------------------------

afresh
gpu budget ONLY='^prefill-128k$' GPU_BUDGET=0
[[ $? -eq 0 && ! -e $P/runs ]] && grep -q '^gpu: stopped: its time is over' "$W.out" && grep -qE '^left: [1-9]' "$W.out"
check $? "without time nothing is begun, and the page says what is left"
echo hang > "$P/bench.prefill-128k.dense-hopper"
gpu budget ONLY='^prefill-128k$' GPU_BUDGET=0.15 LIMIT=60
[[ $? -eq 0 && -z $(ended budget "bench prefill-128k.dense-hopper") ]] && grep -q '^- CUT SHORT: bench prefill-128k.dense-hopper$' "$W.out"
check $? "what the budget cuts off has not failed"
rm "$P/bench.prefill-128k.dense-hopper"
gpu budget ONLY='^prefill-128k$' GPU_BUDGET=30
is budget "bench prefill-128k.dense-hopper" ok
says '^left: 0 steps$'

# ---- Parameters ----------------------------------------------------------------------------------------------------

afresh
touch "$P/more"
gpu tuned ONLY='^tune' GPU_BUDGET=30
[[ $? -eq 0 && -e $P/tuned/cuda.tuned ]] && ! grep -q '^bench' "$P/runs" && grep -q '^- goes on: tune: left: 3 values$' "$W.out"
check $? "msa tune leaves something for the next run, and what needs its values waits"
gpu tuned ONLY='^tune' GPU_BUDGET=30
[[ $(ended tuned tune) == $'goes on\nok' ]]
check $? "... which goes on"
is tuned "bench tuned-128k-structured.prefill-auto" ok
says '^- parameters: 1 of 10 parameters are not their presets: kv_outer_chunk 8192$'
says '^left: 0 steps$'
grep -qE '^tune --backend cuda --budget (1[0-9]{2}|[0-9]{1,2}) --out ' "$P/runs"
check $? "... with less time than it has"
afresh
echo crash > "$P/tune"
gpu untuned ONLY='^tune|^prefill-128k$' GPU_BUDGET=30
is untuned tune crashed
is untuned "bench prefill-128k.reverse-scan" ok
says '^left: 0 steps$'

# ---- Killed --------------------------------------------------------------------------------------------------------

afresh
for step in check.dense-hopper check.reverse-scan {bench,after}.prefill-128k.{dense-hopper,index-fused,reverse-scan} after.layer-128k-random.prefill-auto; do
    echo kill > "$P/$step"
done
kills=0 before=0 lost=0
until gpu killed ONLY='^(prefill-128k|layer-128k-random)$' GPU_BUDGET=30 || [[ $? -ne 137 || $kills -gt 20 ]]; do
    kills=$((kills + 1))
    now=$(ls "$P/killed"/*.json 2> /dev/null | wc -l)
    [[ $now -ge $before ]] || lost=1
    before=$now
    [[ $kills -ne 3 ]] || printf 'half a li' >> "$P/killed/cuda.tsv"
done 2> /dev/null
[[ $kills -ge 8 && $lost -eq 0 ]] && grep -q '^left: 0 steps$' "$W.out"
check $? "killed at $kills moments, it goes on each time, and loses no file"
[[ -z $(awk -F '\t' 'NF == 6 && $4 != "begun" {print $3}' "$P/killed/cuda.tsv" | sort | uniq -d) ]]
check $? "... no step ends twice"
[[ -z $(awk -F '\t' '$4 == "ok" && $3 ~ /^bench/ {print substr($3, 7)}' "$P/killed/cuda.tsv" | while read -r name; do [[ -e $P/killed/$name.json ]] || echo "$name"; done) ]]
check $? "... what is on record is there"
grep -qx 'half a li' "$P/killed/cuda.tsv"
check $? "... and a line that was cut off spoils no other"
afresh
mkdir -p "$P/two/.cuda"
(flock 8 && sleep 2 && [[ ! -e $P/runs ]] && touch "$P/alone") 8> "$P/two/.cuda/lock" &
until ! flock -n "$P/two/.cuda/lock" true; do sleep 0.05; done
gpu two ONLY='^prefill-128k$' GPU_BUDGET=30
[[ $? -eq 0 && -e $P/alone ]] && grep -q '^gpu: waiting' "$W.out" && grep -q '^bench dense/hopper' "$P/runs"
check $? "what an earlier run left at work is waited for"
afresh
echo hang > "$P/bench.prefill-128k.dense-hopper"
env MSA="$P/msa" PYTHON=false SANITIZER="$P/sanitizer" LIMIT=100 ONLY='^prefill-128k$' data/bench/cuda.sh "$P/left" > "$W.out" 2> "$W.err" &
script=$!
for _ in {1..100}; do
    [[ ! -e $P/hangs ]] || break
    sleep 0.1
done
kill -KILL $script
wait $script 2> /dev/null
rm "$P/bench.prefill-128k.dense-hopper"
gpu left ONLY='^prefill-128k$' GPU_BUDGET=30
[[ $? -eq 0 ]] && grep -q '^gpu: ending what a killed run left at work' "$W.out" && ! grep -q '^gpu: waiting' "$W.out"
check $? "what a killed run left hanging is ended, not waited for"
is left "bench prefill-128k.dense-hopper" ok
afresh
echo hang > "$P/check.dense-hopper"
env MSA="$P/msa" PYTHON=false SANITIZER="$P/sanitizer" LIMIT=100 ONLY='^prefill-128k$' data/bench/cuda.sh "$P/term" > "$W.out" 2> "$W.err" &
script=$!
for _ in {1..100}; do
    grep -qs '^check dense/hopper' "$P/runs" && break
    sleep 0.1
done
kill -TERM $script
wait $script
[[ $? -eq 130 ]] && grep -q '^- CUT SHORT: agree dense/hopper$' "$W.out" && flock -w 5 "$P/term/.cuda/lock" true
check $? "a run that is told to end takes its process along, and leaves its page"

# ---- On the engine -------------------------------------------------------------------------------------------------

# The real program, whose GPU is the engine, with small shapes: it understands all that it is asked, and the page its files.
cat > "$P/msa_engine" << END
#!/usr/bin/env bash
case \$1 in
kernels) cat "$P/kernels" ;;
check) exec "$MSA" check --backend simt "\$4" --shape "T=\$([[ \$4 == *decode* ]] && echo 3 || echo 40) S=70 heads=4:2 width=64:64 block=32 topk=2" ;;
tune) exec "$MSA" tune attend_parts --backend simt --seconds 0.001 --budget "\$5" --out "\$7" ;;
bench)
    words=() shape='T=40 S=70 heads=4:2 width=64:64 block=32 topk=2'
    [[ \$2 != *decode* ]] || shape='T=2 S=200 heads=2:1 width=64:64 block=32 topk=2 seqs=2'
    for word do
        case \$last in
        --shape) words+=("\$shape") ;;
        --backend) words+=(simt) ;;
        --seconds) words+=(0.01) ;;
        --json) unset 'words[-1]' ;;
        *) words+=("\$word") ;;
        esac
        last=\$word
    done
    "$MSA" "\${words[@]}" || exit
    "$MSA" bench dense/tiles --no-ceilings --shape "T=40 S=70" --seconds 0.02 --json "\$word" > "$P/file" || exit
    sed -i 's,"stage": "dense","stage": "'"\${2%/*}"'",; s,"kernel": "tiles","kernel": "'"\${2#*/}"'",' "\$word"
    echo timed ;;
esac
END
chmod +x "$P/msa_engine"
if [[ $("$MSA" kernels | cut -f 2) == *simt* ]] && "$MSA" results > /dev/null 2>&1; then
    gpu engine MSA="$P/msa_engine" ONLY='^(prefill-128k(-lse|-k1)?|1024k-b8-fp8|train-512k-kl|tune)$' LIMIT=200 GPU_BUDGET=30
    check $? "the engine in the place of a GPU: every kind of run is understood, agrees and is judged"
    says '^left: 0 steps$'
    grep -qE '^\| selection inside the fused index, 128K.* \| <= 1.05 \| [0-9.e+-]+ \| (met|MISSED) ' "$P/engine/cuda.md"
    check $? "... and the page reads the program's own files"
else
    skip "the engine in the place of a GPU" "this build has no engine, or no jansson"
fi

# ---- What is carried to another machine ----------------------------------------------------------------------------

if command -v ldd > /dev/null; then
    mkdir -p "$W/pack/tests" && cp "$MSA" "$W/pack/" && cp "$P/build/tests/test_instructions" "$W/pack/tests/" &&
        B=$W/pack data/bench/cuda_pack.sh > "$W.out" 2> "$W.err" && tar -C "$W" -xf "$W/pack/msa-gpu.tar"
    check $? "make gpu-pack packs"
    (cd "$W/msa-gpu" && ls build/lib/* && env -u MSA -u B PYTHON=false data/bench/cuda.sh) > "$W.out" 2> "$W.err" &&
        grep -q '^gpu: nothing measured: ' "$W.out"
    check $? "... and what is unpacked starts"
else
    skip "make gpu-pack packs" "no ldd here"
fi

# ---- Another program -----------------------------------------------------------------------------------------------

afresh
gpu killed ONLY='^prefill-128k$' GPU_BUDGET=30
[[ ! -e $P/runs ]]
check $? "the same program: nothing to do"
rm "$P/killed/prefill-128k.index-fused.json"
gpu killed ONLY='^prefill-128k$' GPU_BUDGET=30
[[ $(cut -d ' ' -f 1-2 "$P/runs") == "bench index/fused" ]]
check $? "... but for a file that is gone"
echo '# another build' >> "$P/msa"
gpu killed ONLY='^prefill-128k$' GPU_BUDGET=30
grep -q '^bench dense/hopper' "$P/runs"
check $? "another one is measured anew"
finish
