#!/usr/bin/env bash
# The shipped model and its dense twin on each window of the held-out text: data/pair.sh BUILD > data/kjv-pair.csv.
# A row holds bits per byte of both. pair.sh --sum prints what the stored rows say of the difference. About 5 minutes.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ $1 == --sum ]]; then
    awk -F, 'NR > 1 { msa += $2; dense += $3; d = $2 - $3; sum += d; square += d * d; n++ }
        END {
            sd = sqrt((square - sum * sum / n) / (n - 1))
            printf "%d windows: msa %.4f, twin %.4f, difference %+.2f +- %.2f %%, of a window %.4f bits\n",
                n, msa / n, dense / n, 100 * sum / dense, 197 * sd / sqrt(n) * n / dense, sd
            printf "40 windows: +- %.2f %%\n", 202 * sd / sqrt(40) * n / dense
        }' data/kjv-pair.csv
    exit
fi
build=$1 window=1024
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
text=$(data/text.sh "$build" kjv)
bytes=$(wc -c < "$text") from=$((bytes - bytes / 20))
bits() {
    "$build/msa" evaluate --model "data/kjv-$1.safetensors" --text "$work/text" --windows 1 --recall-windows 1 --csv |
        awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "bits_per_byte") at = i } NR == 2 { print $at }'
}
echo window,msa,gqa
for ((w = 0; from + (w + 1) * window < bytes; w++)); do
    tail -c +$((from + w * window + 1)) "$text" | head -c $((window + 1)) > "$work/text" || true
    msa=$(bits msa)
    gqa=$(bits gqa)
    echo "$w,$msa,$gqa"
done
