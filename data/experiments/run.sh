#!/usr/bin/env bash
# Trains and judges every model of data/experiments/*.conf that has no row in its table yet:
#
#   data/experiments/run.sh run CONF DIR          rows into DIR/EXPERIMENT.csv, curves into DIR/EXPERIMENT-curves.csv
#   data/experiments/run.sh check CONF DIR EXPERIMENT ARM SEED     trains that one again: is its row the same?
#   data/experiments/run.sh list CONF DIR         the runs, and which are done
#   data/experiments/run.sh model CONF DIR EXPERIMENT ARM SEED     the file of its model, if it is there
#
# A run that is interrupted or killed goes on from its last saved state, here and in `msa train`; states and models are in
# build/experiments, and go stale where the program changes what it computes (`make clean`). JOBS (one a core) runs at a
# time, THREADS (1) each; ONLY='retrieval/msa' limits `run` to names EXPERIMENT/ARM that match it.
#
# A configuration is lines of words, # begins a comment:
#   seeds N...               for all that follow
#   train OPTION...          of every run        (as for msa train)
#   experiment NAME SUBJECT OPTION...            SUBJECT: text or task; options of its runs
#   evaluate OPTION...       of the experiment before it (as for msa evaluate)
#   arm NAME OPTION... [-- OPTION...]            one row a seed; a later option wins over an earlier one. Behind --: more
#                            options of its evaluation. Arms that train alike share a model, also across experiments.
set -uf # words of a configuration are options, never patterns of file names
export LC_ALL=C
MSA=${MSA:-build/msa}
B=${B:-build}
JOBS=${JOBS:-$(nproc)}
export OMP_NUM_THREADS=${THREADS:-1}
ONLY=${ONLY:-*}
COMMIT=${COMMIT:-$(data/commit.sh)}

fail() {
    echo "experiments: $*" >&2
    exit 2
}

# Options with each named once, the last value given.
last_wins() {
    local -A at=()
    local words=() word
    for word in "$@"; do
        if [[ $word == --* ]]; then
            if [[ -n ${at[$word]:-} ]]; then
                words[${at[$word]}]="" # its value follows, if it has one
                [[ ${words[${at[$word]} + 1]:-} == --* ]] || words[${at[$word]} + 1]=""
            fi
            at[$word]=${#words[@]}
        fi
        words+=("$word")
    done
    echo ${words[*]}
}

# Fills runs with lines EXPERIMENT|ARM|SEED|SUBJECT|train options|evaluate options, seed by seed.
read_conf() {
    local conf=$1 number=0 keyword rest seeds= common= name= subject= shared= e arm options more
    local -A judged=() seen=()
    local arms=()
    [[ -r $conf ]] || fail "$conf: expected a file to read, found none"
    bad() { fail "$conf:$number: expected $1, found '$2'"; }
    while read -r keyword rest || [[ -n $keyword ]]; do # the last line may have no end
        number=$((number + 1))
        [[ $keyword$rest != *[\|\"]* || $keyword == '#'* ]] || bad 'words without | and "' "$keyword $rest"
        rest=${rest%%#*}
        case $keyword in
        '' | '#'*) ;;
        seeds)
            [[ $rest =~ ^[0-9]+(\ +[0-9]+)*\ *$ ]] || bad "seeds: integers" "$rest"
            seeds=$rest
            ;;
        train) common=$rest ;;
        experiment)
            read -r name subject shared <<< "$rest"
            [[ $name =~ ^[a-z0-9-]+$ ]] || bad "a name of small letters, digits and -" "$name"
            [[ $subject == text || $subject == task ]] || bad "text or task" "$subject"
            ;;
        evaluate)
            [[ -n $name ]] || bad "an experiment before its evaluation" "$rest"
            judged[$name]=$rest
            ;;
        arm)
            [[ -n $name && -n $seeds ]] || bad "seeds and an experiment before its arms" "$rest"
            read -r arm options <<< "$rest"
            more=
            [[ " $options" != *" -- "* ]] || more=${options##*-- } options=" $options" options=${options%% -- *}
            [[ $arm =~ ^[a-z0-9-]+$ ]] || bad "a name of small letters, digits and -" "$arm"
            [[ -z ${seen[$name/$arm]:-} ]] || bad "an arm of another name" "$arm"
            seen[$name/$arm]=1
            arms+=("$name|$arm|$seeds|$subject|$(last_wins $common $shared $options)|$more")
            ;;
        *) bad "seeds, train, experiment, evaluate or arm" "$keyword" ;;
        esac
    done < "$conf"
    [[ ${#arms[@]} -gt 0 ]] || fail "$conf: expected an arm, found none"
    runs=()
    local line nth most=0 a
    for ((nth = 0; nth <= most; nth++)); do # the first seed of all arms, then the second
        for line in "${arms[@]}"; do
            IFS='|' read -r e a seeds subject options more <<< "$line"
            read -r -a seeds <<< "$seeds"
            [[ ${#seeds[@]} -le $((most + 1)) ]] || most=$((${#seeds[@]} - 1))
            [[ $nth -ge ${#seeds[@]} ]] || runs+=("$e|$a|${seeds[nth]}|$subject|$options|${judged[$e]:-}${more:+ $more}")
        done
    done
}

# The commands of a run, with its files below $models.
commands() { # commands MODELS SUBJECT OPTIONS SEED EVALUATE
    local words
    [[ $2 == text ]] && words="--text $text" || words=--task
    name=$1/$(echo "$2 $3 $4" | cksum | cut -d ' ' -f 1).safetensors
    train="$MSA train $words --out $name --seed $4 $3"
    judge="$MSA evaluate $words --model $name --seed $4 $5 --csv"
}

# Trains (or goes on, or finds it done) and judges: header and row of `msa evaluate --csv` into $1.
measure() { # measure FILE
    local child
    exec 8> "$name.lock" && flock 8 || return 1 # another arm may be training that model
    trap 'kill -TERM "$child" 2> /dev/null; wait; exit 143' TERM
    if [[ ! -e $name ]]; then
        $train > "$1.log" 2>&1 &
        child=$!
        wait "$child" || { tail -n 1 "$1.log" >&2; return 1; }
    fi
    $judge > "$1" || return 1
}

# Puts a row, and the curve's rows with a recall, into the tables; a row of an older command is replaced. An arm that
# chooses by another rule than its model learned with has no curve of its own.
store() { # store DIR EXPERIMENT ARM SEED FILE COMMAND
    local table=$1/$2.csv curves=$1/$2-curves.csv curve=${name%.safetensors}.csv
    (
        flock 9
        { echo "arm,seed,$(sed -n 1p "$5"),commit,command"
          [[ ! -e $table ]] || tail -n +2 "$table" | grep -v "^$3,$4,"
          echo "$3,$4,$(sed -n 2p "$5"),$COMMIT,\"$6\""; } > "$table.new" && mv "$table.new" "$table"
        if [[ $judge != *--selector* ]] && head -n 1 "$curve" | grep -q recall; then
            { echo "arm,seed,$(head -n 1 "$curve"),commit"
              [[ ! -e $curves ]] || tail -n +2 "$curves" | grep -v "^$3,$4,"
              awk -F, -v p="$3,$4," -v c="$COMMIT" 'NR > 1 && $6 != "" { print p $0 "," c }' "$curve"; } > "$curves.new" &&
                mv "$curves.new" "$curves"
        fi
    ) 9> "$B/experiments/lock"
}

done_already() { # done_already DIR EXPERIMENT ARM SEED COMMAND
    [[ -e $1/$2.csv ]] && grep "^$3,$4," "$1/$2.csv" | grep -qF -- "\"$5\""
}

one() { # one NUMBER OF DIR EXPERIMENT ARM SEED
    local result=${name%.safetensors}.row start=$SECONDS
    echo "[$1/$2] $4/$5 seed $6"
    measure "$result" || { echo "experiments: $4/$5 seed $6: $train: failed" >&2; return 1; }
    store "$3" "$4" "$5" "$6" "$result" "$train && $judge"
    echo "[$1/$2] $4/$5 seed $6: $(sed -n 2p "$result" | cut -d , -f 1-2) after $((SECONDS - start)) s"
}

[[ $# -ge 3 ]] || fail "expected run, check, list or model, a configuration and a directory, found '$*'"
what=$1 conf=$2 dir=$3
read_conf "$conf"
mkdir -p "$dir" "$B/experiments" || exit 2
text=
[[ " ${runs[*]}" != *"|text|"* ]] || text=$(data/text.sh "$B" ${TEXT-kjv}) || exit 2

case $what in
list | run)
    number=0 bad=0
    trap 'kill -TERM $(jobs -p) 2> /dev/null; wait; exit 130' INT TERM
    for run in "${runs[@]}"; do
        number=$((number + 1))
        IFS='|' read -r experiment arm seed subject options judging <<< "$run"
        commands "$B/experiments" "$subject" "$options" "$seed" "$judging"
        state=missing
        done_already "$dir" "$experiment" "$arm" "$seed" "$train && $judge" && state=done
        if [[ $what == list ]]; then
            echo "$state $experiment/$arm seed $seed: $train"
        elif [[ $state == missing && $experiment/$arm == $ONLY ]]; then
            while [[ $(jobs -rp | wc -l) -ge $JOBS ]]; do wait -n || bad=1; done
            one "$number" "${#runs[@]}" "$dir" "$experiment" "$arm" "$seed" &
        fi
    done
    while [[ $(jobs -rp | wc -l) -gt 0 ]]; do wait -n || bad=1; done
    exit $bad
    ;;
check | model)
    [[ $# -eq 6 ]] || fail "expected $what CONF DIR EXPERIMENT ARM SEED, found '$*'"
    scratch=$(mktemp -d) || exit 2
    trap 'rm -rf "$scratch"' EXIT
    for run in "${runs[@]}"; do
        IFS='|' read -r experiment arm seed subject options judging <<< "$run"
        [[ $experiment/$arm/$seed == "$4/$5/$6" ]] || continue
        commands "$([[ $what == model ]] && echo "$B/experiments" || echo "$scratch")" "$subject" "$options" "$seed" "$judging"
        if [[ $what == model ]]; then
            [[ -e $name ]] && echo "$name"
            exit
        fi
        measure "$scratch/row" || exit 1
        if grep "^$arm,$seed," "$dir/$experiment.csv" | grep -qF -- "$arm,$seed,$(sed -n 2p "$scratch/row"),"; then
            echo "$experiment/$arm seed $seed: the same row again"
            exit 0
        fi
        echo "$experiment/$arm seed $seed: expected $(grep "^$arm,$seed," "$dir/$experiment.csv"), found $(sed -n 2p "$scratch/row")"
        exit 1
    done
    fail "$conf: expected a run $4/$5 seed $6, found none"
    ;;
*) fail "expected run, check, list or model, found '$what'" ;;
esac
