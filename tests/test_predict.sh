#!/usr/bin/env bash
# msa timeline --predict: times of the stages by hand from cuda/clocks.csv, a shape of one's own, and what was measured beside.
source "$(dirname "$0")/support/tap.sh"

runs() { # runs NAME ARGUMENT...: of timeline --predict
    local name=$1
    shift
    "$MSA" timeline --predict "$@" > "$W.out" 2> "$W.err"
    check $? "$name"
}
refuses() { # refuses PATTERN ARGUMENT...: one line that says that, and exit status 2
    local pattern=$1
    shift
    "$MSA" timeline --predict "$@" > "$W.out" 2> "$W.err"
    [[ $? -eq 2 && ! -s $W.out && $(wc -l < "$W.err") -eq 1 ]] && grep -qF -- "$pattern" "$W.err"
    check $? "refused in a line: $pattern"
}
clocks() { # clocks NAME COLUMN: of cuda/clocks.csv
    awk -F, -v name="$1" -v column="$2" 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == column) at = i } $1 == name { print $at }' cuda/clocks.csv
}
row() { # row STAGE TOKENS GPU: predicted ms, what takes longest, roofline ms
    awk -v stage="$1" -v tokens="$2" -v gpu="$3" '$1 == stage && $2 == tokens && index($0, " " gpu " ") {
        if (gpu ~ /,/) { $4 = $5; $5 = $6; $6 = $7 } print $4, $5, $6 }' <(sed 's/H800, H100/H800,H100/' "$W.out")
}

# ---- By hand -------------------------------------------------------------------------------------------------------

runs "predicted times"
! grep -qiE 'nan|inf|unknown' "$W.out" && [[ $(grep -c ' H200 ' "$W.out") -eq $((8 * 17 - 4)) && $(grep -c ' H800, H100 ' "$W.out") -eq $((8 * 17 - 4)) ]]
check $? "... of every stage, 8K to 1M tokens, both kinds of memory; what screens from 128K on"
# 131072^2 / 2 pairs of 4 rows are 2^20 turns of 256 x 128, of 2048 clocks of products, on 132 SMs at 1.755 GHz.
[[ $(row index/fused 131072 H200) == '9.270 tensor 8.890' ]]
check $? "... of the fused index"
# Per query 5 products of 64 heads, 2048 keys and 128 channels, and 3 of 4 groups: 2 (5 64 + 3 4) 2048 128 2^17 operations.
[[ $(row backward/hopper:kl 131072 H200) == *' 23.059' ]]
check $? "... of gradients with KL's: no less than msa bench counts"
# Dense: 131072^2 / 2 pairs in 4 groups, 128 keys of 4 queries a turn.
[[ $(row dense_backward/hopper 131072 H200) == "$(awk -v shared="$(clocks backward/hopper shared)" 'BEGIN { printf "%.3f", 1e3 * (int(2 ^ 33 * 4 / 512 / 132) + 1) * shared / 1.755e9 }') shared "* ]]
check $? "... of dense gradients"
# A step at 1M: 62 stages of 128 keys an SM and a part of one, 32 KB at 0.9 of 4.8 TB/s each. Of the last launch 32 CTAs make two turns
# of attention, longer than 4 MB take; one warp's parts of it; three launches of 1 us and five loads. Bytes: (2 128 2^20 + 4 4 128 2048).
parts=0
for part in choose rank values send merge; do parts=$((parts + $(clocks decode/swapped:$part turn))); done
clocks_of() { # clocks_of EXPRESSION: ms, of clocks in which `rate` is bytes a clock and SM, and `parts` and `attend` are known
    awk -v parts="$parts" -v attend="$(clocks decode/swapped:attend turn)" -v tau="$(clocks decode/swapped:tau turn)" \
        -v settle="$(clocks decode/swapped:settle turn)" "BEGIN { rate = 0.9 * 4.8e12 / 1.755e9 / 132; printf \"%.3f\", 1e3 * ($1) / 1.755e9 }"
}
step=$(clocks_of '63 * 32768 / rate + 2 * attend + parts + 3 * 1755 + 5 * 600')
[[ $(row decode/swapped 1048576 H200) == "$step memory 0.057" ]]
check $? "... of a step, $step ms, with what its last launch does by itself"
step=$(clocks_of '2 * attend + parts + 1755 + 600')
[[ $(row decode/swapped:last 1048576 H200) == "$step turn 0.001" ]]
check $? "... of that launch, $step ms"
# 8 requests that screen: 65536 stages of 16 KB; 43 blocks of 32 KB for each of 4 rows to settle; 512 turns of attention.
step=$(clocks_of '497 * 16384 / rate + tau + 11 * settle + 512 * 65536 / rate / 132 + parts + 3 * 1755 + 5 * 600')
[[ $(row decode/swapped:b8-int8 1048576 H200) == "$step memory 0.240" ]]
check $? "... of a step that screens, $step ms"
awk '$2 == 131072 && $3 == "H200" { ms[$1] = $4 }
    END { off = ms["prefill/auto:random"] - ms["index/fused"] - ms["sparse/kv_outer"]
        exit !(off < 0.002 && off > -0.002 && ms["prefill/auto:structured"] > ms["sparse/union"]) }' "$W.out"
check $? "... and of a layer, the sum of its stages"

# ---- A shape -------------------------------------------------------------------------------------------------------

cp "$W.out" "$W/all"
runs "a shape of one length" --shape 'T=131072 S=131072'
[[ $(grep -c ' 131072 ' "$W.out") -eq 34 && $(wc -l < "$W.out") -eq 36 ]] && diff <(grep ' 131072 ' "$W/all") <(grep ' 131072 ' "$W.out") > /dev/null
check $? "... has the rows of that length"
runs "a shape with other heads" --shape 'heads=32:2'
[[ $(wc -l < "$W.out") -eq $(wc -l < "$W/all") ]] && awk 'FNR == NR { if ($1 == "index/fused") whole[$2, $3] = $(NF - 2); next }
    $1 == "index/fused" && $2 >= 131072 { n++; x = 2 * $(NF - 2) / whole[$2, $3]; if (x < 0.999 || x > 1.001) exit 1 } END { exit n != 8 }' "$W/all" "$W.out"
check $? "... has all lengths, and half the groups half the products"
for words in 'T=4096 S=131072' 'T=64 S=64' 'T=131072 S=131072 block=64' 'topk=8' 'width=64:64' 'heads=64:8' 'heads=256:16' 'T=131072 S=131072 seqs=2'; do
    refuses "--predict: expected a --shape with T = S from 8192 to 16777216, up to 8 groups of 16 heads, width=128:128 block=128 topk=16, which the counted tiles are of, found '$words'" --shape "$words"
done
refuses '--shape: expected the form' --shape 'S=many'
refuses '--predict: expected no --out with it' --out "$W/t.svg"

# ---- Beside what was measured --------------------------------------------------------------------------------------

if ! "$MSA" help 2>&1 | grep -q '^ *results'; then
    refuses 'expected a build with the JSON library' "$W/none.json"
    finish
fi
result='"stage":"index","kernel":"fused","n":131072,"n_q":131072,"batch":1,"n_heads":64,"n_kv_heads":4,"d_head":128,"block":128,"topk":16,"distribution":"random","union8":null,"index_dtype":"bf16","lse":false,"deterministic":null,"ms_median":10,"ms_min":10,"ms_max":10,"repeats":20,"useful_tflops":1,"gbps":1,"verified":true'
step=$(sed -E 's/"index","kernel":"fused"/"decode","kernel":"swapped"/; s/131072,"n_q":131072,"batch":1/1048576,"n_q":1,"batch":8/; s/"bf16"/"int8"/; s/:10,/:0.4,/g' <<< "$result")
measured() { # measured FILE DEVICE RESULT...: a file of msa bench
    local file=$1 device=$2 IFS=,
    shift 2
    echo "{\"device\":\"$device\",\"driver\":\"580\",\"cuda\":\"13.0\",\"commit\":\"44d146b6691cecb50e85bd59012ce583a0cd1f08\"," \
        "\"date\":\"2026-11-21T19:30:18Z\",\"command\":\"msa bench index\",\"ceilings\":{\"matmul_bf16_tflops\":780,\"copy_gbps\":4300}," \
        "\"results\":[${*}]}" > "$W/$file"
}
measured h200.json 'NVIDIA H200' "{$result}"
runs "beside a measurement" "$W/h200.json"
[[ $(grep -c ' 10\.000 ' "$W.out") -eq 1 ]] && grep -qE '^index/fused +131072 +H200 .* 10\.000 +-7%$' "$W.out" && grep -qx 'error of the model: 7%, the mean of 1 measurements' "$W.out"
check $? "... the error of the model is a figure of its own"
# 0.289 of 0.4 is 28 % less.
measured both.json 'NVIDIA H200' "{$result}" "{$step}"
runs "beside two" "$W/both.json"
error=$(awk '$1 == "decode/swapped:b8-int8" && $2 == 1048576 && $3 == "H200" && $8 == "0.400" { x = $4 / 0.4 - 1; printf "%.0f", 100 * ((x < 0 ? -x : x) + 0.073) / 2 }' "$W.out")
[[ -n $error && $(grep -c ' 0\.400 ' "$W.out") -ge 1 && $(grep -cE ' [+-][0-9]+%$' "$W.out") -eq 2 ]] && grep -qx "error of the model: $error%, the mean of 2 measurements" "$W.out"
check $? "... a step beside the row of its batch and its keys alone; the error is the mean, $error%"
measured h100.json 'NVIDIA H100 80GB HBM3' "{$result}"
measured cpu.json 'AMD EPYC' "{$result}"
runs "beside files of an H100 and a CPU" "$W/h100.json" "$W/cpu.json"
[[ $(grep -cE ' [+-][0-9]+%$' "$W.out") -eq 1 ]] && grep -qE '^index/fused +131072 +H800, H100 .* 10\.000 +-7%$' "$W.out"
check $? "... each beside its own device, a CPU's beside none"
runs "a measurement of another shape" --shape 'T=8192 S=8192' "$W/h200.json"
! grep -q 'error of the model' "$W.out"
check $? "... stands beside nothing"
refuses 'none.json' "$W/none.json"
finish
