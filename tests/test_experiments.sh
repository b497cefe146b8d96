#!/usr/bin/env bash
# The experiments: a configuration's mistakes are named; a run that was killed ends in the row of one that was not; a
# row comes again from its commands; the stored tables are what the configuration asks for, and the page and figures are
# what the tables say.
source "$(dirname "$0")/support/tap.sh"
B=${B:-build}
export MSA B TEXT= COMMIT=test OMP_WAIT_POLICY=passive

# ---- The stored tables ------------------------------------------------------------------------------

for table in data/experiments/*.csv; do
    [[ -e $table ]] || continue
    awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) c[$i] = i; want = NF; next }
        NF != want { print FILENAME ":" NR ": " NF " fields, not " want; bad = 1 }
        c["commit"] && length($c["commit"]) != 40 { print FILENAME ":" NR ": no clean commit: " $c["commit"]; bad = 1 }
        c["command"] && $c["command"] !~ /^".*msa .*"$/ { print FILENAME ":" NR ": no command"; bad = 1 }
        c["seed"] && !c["step"] && seen[$1, $2, c["layer"] ? $c["layer"] : ""]++ { print FILENAME ":" NR ": that arm and seed again"; bad = 1 }
        /nan|inf/ { print FILENAME ":" NR ": not a number"; bad = 1 }
        END { exit bad || NR < 2 }' "$table" > "$W.out"
    check $? "$table: whole rows with arm, seed, commit and command, each once"
done
if command -v bible > /dev/null; then
    rows=$(cat data/experiments/*.csv | grep -c '"build/msa train')
    MSA=build/msa B=build data/experiments/run.sh list data/experiments/small.conf data/experiments > "$W.out" 2> "$W.err"
    [[ $(grep -c '^done' "$W.out") -eq $rows ]]
    check $? "all $rows rows are of runs that the configuration names, with its commands"
else
    skip "rows are of runs that the configuration names" "no command bible here, so the text has another name"
fi
LINK=figures/experiments data/experiments/report.sh data/experiments "$W/figures" > "$W/page" && diff data/experiments/README.md "$W/page" > "$W.out"
check $? "the page of the experiments is what the tables say"
wrong=
for figure in "$W"/figures/*.svg; do [[ ! -e $figure ]] || cmp -s "$figure" "figures/experiments/${figure##*/}" || wrong+=" ${figure##*/}"; done
[[ -z $wrong ]]
check $? "their figures are drawn from the tables$wrong"

# ---- The commit of a row ------------------------------------------------------------------------------

if command -v git > /dev/null; then
    mkdir -p "$W/tree/data/experiments" && cp data/commit.sh "$W/tree/data/" && echo row > "$W/tree/data/experiments/text.csv"
    named() { (cd "$W/tree" && data/commit.sh); } # in a repository of its own
    git init -q "$W/tree" && git -C "$W/tree" add . && git -C "$W/tree" -c user.name=x -c user.email=x@x commit -qm x
    commit=$(git -C "$W/tree" rev-parse HEAD)
    [[ $(named) == "$commit" ]] && echo row >> "$W/tree/data/experiments/text.csv" && [[ $(named) == "$commit" ]]
    check $? "a row in a table does not make the next one's commit dirty"
    echo '#' >> "$W/tree/data/commit.sh"
    [[ $(named) == "$commit-dirty" && $(cd "$W" && GIT_CEILING_DIRECTORIES=$W "$OLDPWD/data/commit.sh") == unknown ]]
    check $? "... a program that was changed does; without a repository it is unknown"
else
    skip "the commit of a row" "no git here"
fi

# ---- Configurations with mistakes ---------------------------------------------------------------------

expect_refusal() { # expect_refusal NAME PATTERN CONFIGURATION
    printf '%b' "$3" > "$W/bad.conf"
    data/experiments/run.sh list "$W/bad.conf" "$W/none" > "$W.out" 2> "$W.err"
    local status=$?
    [[ $status -eq 2 && $(wc -l < "$W.err") -eq 1 && ! -s $W.out ]] && grep -q -- "$2" "$W.err"
    check $? "refused in one line: $1"
}
expect_refusal "an unknown word" "bad.conf:2: expected seeds, .* found 'epochs'" 'seeds 1\nepochs 3\n'
expect_refusal "seeds that are none" "bad.conf:1: expected seeds: integers" 'seeds one\n'
expect_refusal "an experiment on nothing" "expected text or task, found 'image'" 'seeds 1\nexperiment a image\n'
expect_refusal "an arm before seeds" "bad.conf:2: expected seeds and an experiment" 'experiment a task\narm b\n'
expect_refusal "an arm twice" "expected an arm of another name, found 'b'" 'seeds 1\nexperiment a task\narm b\narm b\n'
expect_refusal "a name with a comma" "expected a name of small letters" 'seeds 1\nexperiment a task\narm b,c\n'
expect_refusal "a field within an option" "bad.conf:3: expected words without" 'seeds 1\nexperiment a task\narm b --lr 0.1|0.2\n'
expect_refusal "a quotation mark" "bad.conf:3: expected words without" 'seeds 1\nexperiment a task\narm b --lr "0.1"\n'
printf 'seeds 1\nexperiment a task\narm b --selector *\narm c --lr 0.1' > "$W/end.conf"
data/experiments/run.sh list "$W/end.conf" "$W/none" > "$W.out" 2> "$W.err"
[[ $? -eq 0 && $(wc -l < "$W.out") -eq 2 ]] && grep -q -- '--selector \*$' "$W.out" && grep -q 'a/c seed 1: .*--lr 0.1$' "$W.out"
check $? "a last line without an end counts, and * is no file"
expect_refusal "no arm" "expected an arm, found none" 'seeds 1\n'
data/experiments/run.sh list "$W/nothing.conf" "$W/none" > "$W.out" 2> "$W.err"
[[ $? -eq 2 && $(wc -l < "$W.err") -eq 1 ]]
check $? "refused in one line: no configuration"

if ! has_models; then
    skip "runs" "this build has no jansson, so no checkpoints"
    finish
fi

# ---- A slice of the quick version -----------------------------------------------------------------------

ONLY='@(text/converted|retrieval/window)' JOBS=2 B=$W/slice data/experiments/run.sh run data/experiments/quick.conf "$W/quick" > "$W.out" 2> "$W.err"
check $? "make experiments QUICK=1, two of its runs"
[[ $(grep -c '^converted,1,' "$W/quick/text.csv") -eq 1 && $(grep -c '^window,1,' "$W/quick/retrieval.csv") -eq 1 &&
    $(grep -c '^converted,1,' "$W/quick/text-curves.csv") -eq 3 ]]
check $? "... each writes its row, and the conversion its curve"
before=$(cat "$W"/quick/*.csv)
ONLY='@(text/converted|retrieval/window)' B=$W/slice data/experiments/run.sh run data/experiments/quick.conf "$W/quick" > "$W.out" 2> "$W.err"
[[ $? -eq 0 && ! -s $W.out && $(cat "$W"/quick/*.csv) == "$before" ]]
check $? "... a second time there is nothing to do"
B=$W/slice data/experiments/run.sh check data/experiments/quick.conf "$W/quick" retrieval window 1 > "$W.out" 2> "$W.err"
check $? "a row comes again from its commands"
ONLY='@(retrieval/msa|rules-task/mean)' JOBS=2 B=$W/shared data/experiments/run.sh run data/experiments/quick.conf "$W/shared" > "$W.out" 2> "$W.err"
[[ $? -eq 0 && $(ls "$W"/shared/experiments/*.safetensors | wc -l) -eq 1 ]] && grep -q '^mean,1,.*evaluate .*--selector mean --csv"$' "$W/shared/rules-task.csv" &&
    [[ $(cut -d , -f 4 "$W/shared/retrieval.csv" | tail -n 1) != "$(cut -d , -f 4 "$W/shared/rules-task.csv" | tail -n 1)" ]]
check $? "arms that train alike share a model, which is judged by the rule of each"
model=$(ls "$W"/shared/experiments/*.safetensors)
turns_down() { # turns_down PATTERN OPTION...: of msa evaluate
    "$MSA" evaluate --task "${@:2}" > "$W.out" 2> "$W.err"
    [[ $? -eq 2 && $(wc -l < "$W.err") -eq 1 && ! -s $W.out ]] && grep -q -- "$1" "$W.err"
    check $? "msa evaluate, in one line: $1"
}
"$MSA" evaluate --task --model "$model" --windows 2 --recall-windows 2 --csv --fp8 > "$W.out" 2> "$W.err" &&
    awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; n = NF }
        NR == 2 { blocks = $at["blocks_0"]; open = $at["settled_0"]; exit !(NF == n && "equal_sets_0" in at && open > 0 && open <= blocks) }
        END { if (NR < 2) exit 1 }' "$W.out"
check $? "a row says what index keys of 8 bits choose, and how many blocks they leave open"
"$MSA" evaluate --task --model "$model" --windows 2 --recall-windows 2 --context 256 --fp8 > "$W.out" 2> "$W.err" &&
    grep -q '^2 sequences of 256 tokens$' "$W.out" && awk '/^index keys of 8 bits/ { there = 1 } there && $1 == 0 { wrong = $2; open = $4; blocks = $3 }
        END { exit !(there && wrong == 0 && open > 0 && open <= blocks) }' "$W.out"
check $? "without --csv as well, here of sequences longer than those of training"
turns_down "--selector: expected the NAME of a rule .*: max, .* found 'best'" --model "$model" --selector best
turns_down "--fp8: expected no --selector beside it" --model "$model" --selector mean --fp8
turns_down "--reuse: expected no --selector beside it" --model "$model" --selector mean --reuse
turns_down "--reuse: expected no --csv beside it" --model "$model" --reuse --csv
turns_down "--selector: expected a model with an Index Branch" --model data/kjv-gqa.safetensors --selector mean
sed -i '2s/^window,1,\([0-9]\)/window,1,9\1/' "$W/quick/retrieval.csv"
B=$W/slice data/experiments/run.sh check data/experiments/quick.conf "$W/quick" retrieval window 1 > "$W.out" 2> "$W.err"
[[ $? -eq 1 ]] && grep -q "expected .*, found " "$W.out"
check $? "a row that was changed does not"

# ---- Keys that models learned -----------------------------------------------------------------------------

if command -v bible > /dev/null; then
    for again in 1 2; do
        data/experiments/keys.sh "$W/keys.csv" shipped-288 > "$W.out" 2> "$W.err" || break
    done
    [[ $? -eq 0 && $(wc -l < "$W/keys.csv") -eq 5 ]] && awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; n = NF; next }
        !(NF == n && $at["tokens"] == 288 && $at["wrong"] == 0 && $at["open"] > 0 && $at["open"] <= $at["blocks"] &&
          $at["fell_back"] <= 1 && $at["equal_sets"] <= 1 && $at["commit"] == "test") { exit 1 }' "$W/keys.csv"
    check $? "keys.sh: a row a layer, and a second time the same rows"
    rm "${model%.*}".* && DIR=$W/shared data/experiments/keys.sh "$W/trained.csv" retrieval/msa/1 retrieval/msa-256/1 > "$W.out" 2> "$W.err" &&
        [[ -s $model && $(cut -d , -f 1,2,4 "$W/trained.csv" | sort | uniq -c | awk '{ print $2 ":" $1 }' | tr '\n' ' ') == \
            "arm,seed,tokens:1 retrieval/msa,1,128:1 retrieval/msa-256,1,256:1 " ]]
    check $? "keys.sh: a model that is not there is trained by its row's command; rows of both lengths stay"
    DIR=$W/shared data/experiments/keys.sh "$W/none.csv" retrieval/msa/2 > "$W.out" 2> "$W.err"
    [[ $? -eq 2 && $(wc -l < "$W.err") -eq 1 && ! -e $W/none.csv ]] && grep -q "retrieval.csv: expected a row msa,2, found none" "$W.err"
    check $? "keys.sh: refused in one line: a model that no row is of"
else
    skip "keys.sh" "no command bible here"
fi
data/experiments/keys.sh "$W/none.csv" shipped-best > "$W.out" 2> "$W.err"
[[ $? -eq 2 && $(wc -l < "$W.err") -eq 1 && ! -e $W/none.csv ]] && grep -q "^keys: expected shipped, .* found 'shipped-best'" "$W.err"
check $? "keys.sh: refused in one line: an arm that is none"

# ---- Killed ----------------------------------------------------------------------------------------------

cat > "$W/kill.conf" << 'END'
seeds 1
train --layers 1 --d-model 16 --heads 2 --kv-heads 1 --d-head 8 --d-index 8 --d-ff 24 --context 64 --batch 1 --save-every 5
experiment kill task --block 8 --topk 3 --steps 400 --index-warmup 20
evaluate --windows 5 --recall-windows 2
arm msa
END
mkdir -p "$W/a/experiments" "$W/b/experiments"
B=$W/a data/experiments/run.sh run "$W/kill.conf" "$W/a/rows" > "$W.out" 2> "$W.err"
check $? "a run from start to end"
interrupted() { # interrupted SIGNAL: starts the run, and stops it when it has saved a state
    B=$W/b data/experiments/run.sh run "$W/kill.conf" "$W/b/rows" > "$W.out" 2> "$W.err" &
    local script=$! i training
    for i in {1..2000}; do
        training=$(pgrep -f -- "msa train.*--out $W/b/experiments") && compgen -G "$W/b/experiments/*.train" > "$W/state" && break
        sleep 0.01
    done
    if [[ $1 == KILL ]]; then kill -KILL $training; else kill "-$1" $script; fi
    wait $script 2> /dev/null
    [[ ! -e $W/b/rows/kill.csv ]] && compgen -G "$W/b/experiments/*.train" > "$W/state"
}
interrupted TERM
check $? "stopped by a signal, it leaves a state and no row"
interrupted KILL
check $? "and when the training is killed"
B=$W/b data/experiments/run.sh run "$W/kill.conf" "$W/b/rows" > "$W.out" 2> "$W.err"
values() { cut -d '"' -f 1 "$1/rows/kill.csv"; }
[[ -s $W/a/rows/kill.csv && $(values "$W/a") == "$(values "$W/b")" ]]
check $? "going on ends in the same row"
finish
