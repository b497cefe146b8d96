#!/usr/bin/env bash
# msa tune on the engine, whose times say nothing: what it measures and keeps, that it goes on where it stopped, and what
# becomes of a file that is missing, of another device or damaged.
source "$(dirname "$0")/support/tap.sh"
file=$W/tuned.json
small=(bench sparse/kv_outer --backend simt --shape 'T=16 S=70 heads=2:1 width=64:64 block=32 topk=2' --seconds 0.001)

refuses() { # refuses PATTERN ARGUMENT...: one line, which says that, and exit status 2
    local pattern=$1
    shift
    "$MSA" "$@" > "$W.out" 2> "$W.err"
    [[ $? -eq 2 && $(wc -l < "$W.err") -eq 1 ]] && grep -qE -- "$pattern" "$W.err"
    check $? "refused in a line: $pattern"
}

# ---- The table -----------------------------------------------------------------------------------------------------

"$MSA" tune --list > "$W.out" 2> "$W.err" && [[ $(grep -cE '^[a-z_]+: [0-9]+, of [0-9]+ to [0-9]+$' "$W.out") -eq $(grep -c '^TUNABLE(' cuda/tunables.def) ]] &&
    [[ $(grep -cE '^  .{40}' "$W.out") -eq $(grep -c '^TUNABLE(' cuda/tunables.def) ]]
check $? "the list has every parameter, its range and its reason"
"$MSA" tune --list attend_parts > "$W.out" 2> "$W.err" && [[ $(wc -l < "$W.out") -eq 2 && $(cat "$W.out") == attend_parts:* ]]
check $? "... or those that are named"
refuses "expected a parameter that 'msa tune --list' names, found 'chunk'" tune chunk
refuses "expected a parameter that 'msa tune --list' names, found 'chunk'" tune --list chunk
refuses '--list: expected no --budget with it' tune --budget 3 --list attend_parts
if ! "$MSA" kernels | cut -f 2 | grep -qw simt || ! "$MSA" results > /dev/null 2>&1; then
    skip "msa tune" "this build has no engine, or no jansson"
    finish
fi
refuses '--backend: expected cuda or simt' tune --backend fast
refuses '--out: expected FILE for the engine' tune --backend simt

# ---- Measuring -----------------------------------------------------------------------------------------------------

tune() { # tune ARGUMENT...: attend_parts of the engine
    "$MSA" tune attend_parts --backend simt --seconds 0.001 --out "$file" "$@" > "$W.out" 2> "$W.err"
}
measured() { # what the last run measured
    grep -cE '^attend_parts +[0-9]+ +[0-9.e+]+ ms$' "$W.out"
}
tune --budget 0
[[ $? -eq 0 && $(measured) -eq 0 ]] && grep -q '^left: 2 values' "$W.out" && grep -q '"measured": \[\]' "$file"
check $? "without time nothing is begun, and it says what is left"
tune
[[ $? -eq 0 && $(measured) -eq 2 && $(grep -c '"verified": true' "$file") -eq 2 ]] && ! grep -q '^left' "$W.out"
check $? "with time each value is judged and timed"
before=$(cksum < "$file")
tune
[[ $? -eq 0 && $(measured) -eq 0 && $(cksum < "$file") == "$before" ]]
check $? "the same command again has nothing to do"
edit() { # edit COMMAND OF sed...: of the file
    sed -i "$@" "$file"
}
edit '0,/"ms": [0-9][0-9.e+]*/s//"ms": null/; 0,/"verified": true/s//"verified": false/'
tune
[[ $? -eq 0 && $(measured) -eq 1 && $(grep -c '"begun": 2' "$file") -eq 1 ]]
check $? "what was begun once and never ended is tried again"
edit '0,/"ms": [0-9][0-9.e+]*/s//"ms": null/; 0,/"verified": true/s//"verified": false/'
tune
[[ $? -eq 0 && $(measured) -eq 0 ]]
check $? "... and what was begun twice is not"
edit 's/"ms": [0-9][0-9.e+]*/"ms": 9/; s/"ms": null/"ms": 10/; s/"verified": false/"verified": true/'
tune
grep -q '^attend_parts .* 16 is kept in place of 132: 10.0 % less time$' "$W.out" && grep -q '"attend_parts": 16' "$file" &&
    grep -q '^1 of [0-9]* parameters are not their presets: attend_parts 16$' "$W.out"
check $? "the faster value is kept"
edit 's/"ms": 9.*,/"ms": 9.95,/'
tune
grep -q '"attend_parts": 132' "$file"
check $? "... but not for half a percent"
edit 's/"ms": 9.95/"ms": 5/; s/"verified": true/"verified": false/2; /"ms": 5/{n;s/true/false/}'
tune
grep -q '"attend_parts": 132' "$file"
check $? "... nor where it was wrong"
edit 's/"commit": "[^"]*"/"commit": "another"/'
tune
[[ $? -eq 0 && $(measured) -eq 2 ]] && grep -q 'is begun anew: it is of another build' "$W.out"
check $? "another build measures anew"
"$MSA" tune sweep_chunk --backend simt --seconds 0.001 --out "$file" > /dev/null 2>&1 &
job=$!
for _ in {1..200}; do grep -q '"sweep_chunk",' "$file" && break; sleep 0.05; done
kill -KILL $job
wait $job 2> /dev/null
tune
[[ $? -eq 0 && $(measured) -eq 0 ]]
check $? "killed, it leaves what was there, whole"

# ---- Using ---------------------------------------------------------------------------------------------------------

edit 's/"kv_outer_chunk": 4096/"kv_outer_chunk": 8/'
MSA_TUNING=$file "$MSA" "${small[@]}" > "$W.out" 2> "$W.err" && grep -q '^tuned: kv_outer_chunk 8 instead of 4096$' "$W.out"
check $? "a later run on the device uses it, and says so"
MSA_TUNING='' "$MSA" "${small[@]}" > "$W.out" 2> "$W.err" && ! grep -q '^tuned' "$W.out"
check $? "... but not where it is told to use none"
XDG_CACHE_HOME=$W "$MSA" "${small[@]}" > "$W.out" 2> "$W.err" && ! grep -q '^tuned' "$W.out"
check $? "... nor the engine unless it is named"
for name in "$W/none.json:expected .* to exist|No such file|none.json" "$W/foreign.json:expected one of the device CPU engine, found one of NVIDIA H200" \
    "$W/range.json:kv_outer_chunk: expected a whole number from 1 to 65536" "$W/name.json:expected a parameter .* found 'chunk'" \
    "$W/half.json:expected JSON" "$W/entry.json:measured\[0\]: expected a parameter" "$W/empty.json:expected a file of 'msa tune'"; do
    path=${name%%:*}
    case $path in
    */foreign.json) sed 's/"CPU engine"/"NVIDIA H200"/' "$file" > "$path" ;;
    */range.json) sed 's/"kv_outer_chunk": 8/"kv_outer_chunk": 0/' "$file" > "$path" ;;
    */name.json) sed 's/"kv_outer_chunk": 8/"chunk": 8/' "$file" > "$path" ;;
    */half.json) head -c 100 "$file" > "$path" ;;
    */entry.json) sed 's/"begun": 1/"begun": "1"/' "$file" > "$path" ;;
    */empty.json) echo '{}' > "$path" ;;
    esac
    MSA_TUNING=$path refuses "${name#*:}" "${small[@]}"
    [[ ! -e $path ]] || refuses "${name#*:}" tune --backend simt --out "$path"
done
finish
