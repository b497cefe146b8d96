#!/usr/bin/env bash
# What index keys of 8 bits choose, and what a bound leaves open, of keys that models learned; a row a layer:
#
#   data/experiments/keys.sh FILE.csv ARM...
#
# Rows of an arm replace those that FILE.csv has of it. ARM is `shipped`, the shipped model on windows of its own 1024 tokens;
# `shipped-N`, the same on windows of N tokens, which it never saw; or EXPERIMENT/ARM/SEED, a model of small.conf, trained by
# the command in its row of DIR (data/experiments) where it is not there yet; EXPERIMENT/ARM-N/SEED on N tokens. A training
# that was interrupted goes on where it was. THREADS (1) compute.
set -euf
export LC_ALL=C OMP_NUM_THREADS=${THREADS:-1}
cd "$(dirname "$0")/../.." || exit 2
MSA=${MSA:-build/msa}
B=${B:-build}
dir=${DIR:-data/experiments}
fail() {
    echo "keys: $*" >&2
    exit 2
}
[[ $# -ge 2 ]] || fail "expected a file and at least one arm, found '$*'"
file=$1
shift
commit=${COMMIT:-$(data/commit.sh)}
text=$(data/text.sh "$B" kjv) || exit 2
new=$(mktemp) || exit 2
trap 'rm -f "$new" "$new.said" "$new.rows"' EXIT
header=arm,seed,layer,tokens,equal_sets,in_common,score_recall_16,score_recall_8,wrong,blocks,open,fell_back,commit,command

# The options of `msa evaluate` for an experiment's model, which is trained if need be.
trained() { # trained EXPERIMENT ARM SEED
    local row train name
    row=$(grep -s "^$2,$3," "$dir/$1.csv") || fail "$dir/$1.csv: expected a row $2,$3, found none"
    train=$(sed 's/.*"\(.*\) && .*"$/\1/' <<< "$row")
    name=$(sed 's/.* --out \([^ ]*\) .*/\1/' <<< "$train")
    mkdir -p "${name%/*}"
    [[ -e $name ]] || ${train/#build\/msa/$MSA} > "$new.said" || fail "$train: failed"
    [[ $train == *--task* ]] && echo "--model $name --task --windows 1" ||
        echo "--model $name --text $text --held-out --windows 1"
}

for arm in "$@"; do
    shipped="--model data/kjv-msa.safetensors --text $text --held-out --windows 1" seed=1
    case $arm in
    shipped) options="$shipped --recall-windows 12" ;;
    shipped-[1-9]*) options="$shipped --recall-windows 1 --context ${arm#shipped-}" ;;
    */*/*)
        IFS=/ read -r experiment model seed <<< "$arm"
        context=${model##*-} arm=$experiment/$model
        [[ $context =~ ^[0-9]{3,}$ ]] && model=${model%-*} context="--recall-windows 1 --context $context" ||
            context="--recall-windows 8"
        options=$(trained "$experiment" "$model" "$seed") || exit 2
        options+=" $context"
        ;;
    *) fail "expected shipped, shipped-N or EXPERIMENT/ARM/SEED, found '$arm'" ;;
    esac
    command="$MSA evaluate $options --seed $seed --fp8"
    $command > "$new.said" || fail "$command: failed"
    awk -v arm="$arm" -v seed="$seed" -v end="$commit,\"$command\"" '
        / windows of | sequences of / && !tokens { tokens = $(NF - 1) }
        /^index keys of 16/ { part = 1 } /^index keys of 8/ { part = 2 }
        part == 1 && $1 ~ /^[0-9]+$/ { e4m3[$1] = $2 "," $3 "," $4 "," $5 }
        part == 2 && $1 ~ /^[0-9]+$/ { print arm "," seed "," $1 "," tokens "," e4m3[$1] "," $2 "," $3 "," $4 "," $5 "," end; rows++ }
        END { exit !rows }' "$new.said" > "$new.rows" || fail "$command: expected what 8 bits choose, found none"
    { echo "$header"
      [[ ! -e $file ]] || tail -n +2 "$file" | grep -v "^$arm,$seed," || true
      cat "$new.rows"; } > "$new"
    cp "$new" "$file"
done
