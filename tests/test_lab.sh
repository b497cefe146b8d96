#!/usr/bin/env bash
# The live figures of the book: what the reference computes in a page is what the program computes, to the last bit where
# no exponential is involved; the pages say so in a browser, with labelled controls, on a phone too; and where there is
# no compiler for the browser the pages stay as they are.
source "$(dirname "$0")/support/tap.sh"
B=${B:-build} module=${B:-build}/lab/msa.wasm

# ---- Pages without it ------------------------------------------------------------------------------------

mkdir -p "$W/book" "$W/lab"
for figure in book/lab/[0-9]*.js; do
    name=$(basename "$figure" .js)
    printf '<!DOCTYPE html>\n<html lang="en">\n<head>\n<title>%s</title>\n</head>\n<body>\n<p> <div class="image"><img src="%s.svg" alt="The figure"/></div> </p>\n</body>\n</html>\n' \
        "$name" "$name" > "$W/book/$(sed -n '1s/.*{#\(.*\)}.*/\1/p' "book/$name.md").html"
done
cp -r "$W/book" "$W/still"
book/lab/embed.sh "$W" > "$W.out" 2> "$W.err" && grep -q 'stay still.*clang' "$W.out" && diff -r "$W/book" "$W/still" >> "$W.out"
check $? "without the module a line says so, and the pages are as they were"
${MAKE:-make} --no-print-directory -n DEPS=0 LAB= book-programs 2> "$W.err" | grep -qxE 'rm -f .*/lab/msa\.wasm'
check $? "where the compiler is gone, make book takes no module that an earlier one has left"
if [[ ! -s $module ]]; then
    skip "live figures" "clang, lld and wasi-libc are not all here"
    finish
fi
if ! command -v node > /dev/null; then
    skip "live figures" "no node here"
    finish
fi

# ---- The numbers -------------------------------------------------------------------------------------------

in_node() { # in_node ARGUMENT...: the checks that it prints
    : > "$W.out"
    node tests/test_lab.js "$module" "$@" > "$W/lines" 2> "$W.err" && [[ -s $W/lines ]]
    local status=$? line
    [[ $status -eq 0 ]] || check "$status" "node tests/test_lab.js $1"
    while IFS= read -r line; do
        [[ $line == ok* ]]
        check $? "${line#*ok }"
    done < "$W/lines"
}
! grep -qE '(transition|animation)[a-z-]*:|setInterval|setTimeout' book/lab/*.css book/lab/*.js
check $? "nothing moves by itself, whatever motion a reader prefers"
in_node colours book/site/book.css book/lab/lab.css
node tests/test_lab.js "$module" inputs "$W" 2> "$W.err"
check $? "the inputs of the figures"

forward() { # forward CHECK ARGUMENT...: of the reference
    "$MSA" forward --backend ref "${@:2}" --out "$W/forward" > "$W.out" 2> "$W.err" || check 1 "msa forward ${*:2}"
}
for shape in "12 4" "4 12" "32 1" "6 8"; do
    read -r block k <<< "$shape"
    forward choose --q "$W/one5.npy" --k "$W/one5.npy" --v "$W/one5.npy" --qi "$W/qi5.npy" --ki "$W/ki5.npy" --block "$block" --topk "$k" --scores
    in_node scores "$W/forward" "$block"
    in_node choose "$W/forward" "$block" "$k"
done
in_node apart
"$MSA" dense --kernel reference --q "$W/q1.npy" --k "$W/k1.npy" --v "$W/v1.npy" --out "$W/dense" > "$W.out" 2> "$W.err" || check 1 "msa dense"
in_node weights "$W/dense"
"$MSA" dense --kernel reference --q "$W/q3.npy" --k "$W/k3.npy" --v "$W/k3.npy" --out "$W/dense" > "$W.out" 2> "$W.err" || check 1 "msa dense"
in_node online "$W/dense"
six=(--q "$W/q6.npy" --k "$W/k6.npy" --v "$W/v6.npy")
"$MSA" dense --kernel reference "${six[@]}" --out "$W/dense" > "$W.out" 2> "$W.err" || check 1 "msa dense"
for choice in "index 8 4" "index 6 9" "random 8 4" "local 8 4" "structured 8 4"; do
    read -r kind block k <<< "$choice"
    ids=(--ids "$W/$kind"6.npy)
    [[ $kind != index ]] || ids=(--topk "$k")
    forward sparse "${six[@]}" --qi "$W/q6.npy" --ki "$W/ki6.npy" --block "$block" "${ids[@]}"
    in_node sparse "$W/forward" "$W/dense" "$kind" "$block" "$k"
done
in_node orders book/examples/14_orders.out
if [[ -s ${module%/*}/11_engine.data.js ]]; then
    in_node engine book/examples/11_engine.out
else
    skip "chapter 11's recording" "its program needs a C++ compiler"
fi
if [[ -s ${module%/*}/09_watch.data.js ]]; then
    in_node watch book/examples/09_watch.out
else
    skip "chapter 9's recording" "this build has no jansson, so no models"
fi
lengths=$(awk 'BEGIN { for (v = 0; v <= 36; v++) printf "%s%d", v ? "," : "", int(2 ^ (11 + v / 4) + 0.5) }')
for shape in "4 128 128 16" "1 64 32 64" "64 32 256 1"; do
    read -r groups d_index block k <<< "$shape"
    "$MSA" cost --n "$lengths" --kv-heads "$groups" --d-index "$d_index" --block "$block" --topk "$k" --csv "$W/cost.csv" > "$W.out" 2> "$W.err"
    in_node cost "$W/cost.csv" "$groups" "$d_index" "$block" "$k"
done

# What a figure says first is what the chapter's program prints: "FIGURE|NAME OF THE VALUE|LINE OF THE OUTPUT, @ for it".
node tests/test_lab.js "$module" says > "$W/says" 2> "$W.err"
check $? "every figure computes as it is shown first"
while IFS='|' read -r name term line; do
    value=$(sed -n "s/^$name\t.*\[\"$term\",\"\([^\"]*\)\"\].*/\1/p" "$W/says")
    echo "$name says $term: $value" > "$W.out"
    [[ -n $value ]] && grep -qE -- "${line//@/$value}" "book/examples/$name.out"
    check $? "$name: $term, $value, is what the program prints"
done << 'END'
07_cost|dense over MSA, operations|^1048576 .* @ .* 89 %$
07_cost|the index's share of MSA|^1048576 .* 28.44 *@$
07_cost|dense over MSA, bytes to decode|ratio @;
07_cost|the same, 1-byte index keys|one byte @$
07_cost|cheaper than dense from|dense from @ on
END

# ---- The pages -----------------------------------------------------------------------------------------------

mkdir -p "$W/lab" && cp "$module" "${module%/*}"/*.data.js "$W/lab/"
book/lab/embed.sh "$W" > "$W.out" 2> "$W.err"
check $? "the module goes into the pages"
for page in "$W"/book/*.html; do
    diff "$W/still/$(basename "$page")" "$page" | grep '^[<>]' | grep -vE '^> <(script src="[a-z0-9_]+(\.data)?\.js" defer></script>|link href="lab.css" rel="stylesheet"/>)*' > "$W.out"
    [[ ! -s $W.out && $(cat "$page" "$W"/book/*.js "$W/book/lab.css" | wc -c) -lt 3000000 ]]
    check $? "$(basename "$page"): nothing but scripts and a style is added, all below 3 MB"
done

browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome)
if [[ -z $browser ]]; then
    skip "figures in a browser" "no chromium here"
    finish
fi
live=$(grep -l 'href="lab.css"' "$W"/book/*.html)
for recorder in book/lab/[0-9]*.c; do
    name=$(basename "$recorder" .c)
    [[ -s $W/book/$name.data.js ]] || rm "$W/book/$name.js" # nothing was recorded, and embed.sh has left it out
done
# All figures on a page, in a frame of a phone's width and one of a desktop's; a probe in each moves every control. A
# module that is compiled at once is there before the page is loaded, which the browser waits for.
cp tests/test_lab.probe.js "$W/book/probe.js"
{
    echo '<!DOCTYPE html><html lang="en"><head><meta name="viewport" content="width=device-width"/><link href="lab.css" rel="stylesheet"/></head><body style="margin:8px">'
    grep -h '<img' $live
    echo '<pre id="probe"></pre><script>'
    echo 'WebAssembly.instantiate = async (bytes, imports) => ({ instance: new WebAssembly.Instance(new WebAssembly.Module(bytes), imports) });'
    echo "const SAYS = {$(sed 's/^\([^\t]*\)\t\(.*\)/"\1": \2,/' "$W/says")};"
    echo '</script>'
    for script in lab.js blocks.js $(cd "$W/book" && { ls | grep 'data\.js$'; ls [0-9]*.js | grep -v data; }) lab_msa.js probe.js; do echo "<script src=\"$script\" defer></script>"; done
    echo '</body></html>'
} > "$W/book/all.html"
cat > "$W/book/frames.html" << 'END'
<body><iframe style="width:390px;height:800px" src="all.html"></iframe><iframe style="width:1280px;height:800px" src="all.html"></iframe>
<pre></pre><script>
addEventListener("load", () => {
    const found = [...document.querySelectorAll("iframe")].map(f => `\n${f.contentDocument.getElementById("probe").textContent}`.replace(/\n(not ok|ok) /g, `\n$1 ${f.clientWidth} pixels: `));
    document.querySelector("pre").textContent = found.join("") + "\n";
});
</script></body>
END
tests/support/watched.sh "$browser" --headless --no-sandbox --disable-gpu --allow-file-access-from-files --user-data-dir="$W/profile" \
    --window-size=1700,900 --dump-dom "file://$W/book/frames.html" > "$W/dom" 2> "$W.err"
grep -E '^(ok|not ok) ' "$W/dom" > "$W/lines"
[[ $(grep -c 'nothing sticks out' "$W/lines") -eq 2 ]]
check $? "the figures in $(basename "$browser")"
: > "$W.out"
: > "$W.err"
while IFS= read -r line; do
    [[ $line == ok* ]]
    check $? "${line#*ok }"
done < "$W/lines"
finish
