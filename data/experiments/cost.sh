#!/usr/bin/env bash
# Times dense attention and MSA (index, selection and sparse attention) of one layer on this CPU at rising lengths, beside
# the cost model: data/experiments/cost.sh FILE.csv [N...]. The heads are a quarter of MiniMax-M3's: 16 query heads and one
# KV head of 128, blocks of 128, 16 of them kept. Run it when nothing else does.
set -u
export LC_ALL=C
cd "$(dirname "$0")/../.." || exit 2
MSA=${MSA:-build/msa}
file=${1:?a file to write}
shift
[[ $# -gt 0 ]] || set -- 512 1024 2048 4096 8192 16384 32768
new=$(mktemp) || exit 2
trap 'rm -f "$new" "$new.json" "$new.model"' EXIT
commit=${COMMIT:-$(data/commit.sh)}
echo "n,dense_ms,msa_ms,model_flop_ratio,device,commit,command" > "$new"
for n in "$@"; do
    command="$MSA bench dense prefill --backend fast --no-ceilings --seconds ${SECONDS_EACH:-10} --limit 3600 --shape 'T=$n S=$n heads=16:1'"
    echo "== $n tokens"
    eval "$command --json $new.json" || exit 1
    "$MSA" cost --n "$n" --heads 16 --kv-heads 1 --csv "$new.model" > /dev/null || exit 1
    value() { sed -n "s/^ *\"$1\": \"*\([^\",]*\).*/\1/p" "$new.json" | sed -n "$2p"; }
    device=$(sed -n 's/^ *"device": "\(.*\)",$/\1/p' "$new.json" | tr -d ,)
    echo "$n,$(value ms_median 1),$(value ms_median 2),$(awk -F, 'NR == 2 { print $4 }' "$new.model"),$device,$commit,\"$command\"" >> "$new"
done
mkdir -p "$(dirname "$file")" && cp "$new" "$file"
