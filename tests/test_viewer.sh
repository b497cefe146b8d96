#!/usr/bin/env bash
# The pictures, arrays and page of `msa dump`, and its refusals. Where a Chromium is installed the page is
# opened, pointed at and typed at. TAP on stdout; MSA names the program.
source "$(dirname "$0")/support/tap.sh"
source tests/support/npy.sh
V=$PWD/data/vectors

runs() { # runs NAME ARGUMENT...
    "$MSA" dump "${@:2}" >"$W.out" 2>"$W.err" && [[ ! -s $W.err ]]
    check $? "$1"
}
says() { # says PATTERN: on stdout of the last run
    grep -qE -- "$1" "$W.out"
    check $? "... and prints $1"
}

# ---- What the files hold ------------------------------------------------------------------------------

shape_is() { # shape_is FILE SHAPE
    head -c 128 "$1" | grep -qF "'shape': ($2)"
    check $? "... $(basename "$1") has the shape ($2)"
}
number_at() { # number_at OFFSET FILE: of the PNG's header; 16: width, 20: height
    echo $((16#$(od -An -tx1 -j"$1" -N4 "$2" | tr -d ' ')))
}
picture() { # picture FILE WORD: a PNG of sensible size whose text chunks hold the command and WORD
    local name
    name=$(basename "$1")
    if [[ -s ${1%.png}.ppm ]]; then
        skip "... $name" "this build has no libpng and wrote a PPM"
        return
    fi
    [[ $(od -An -tx1 -N8 "$1" | tr -d ' ') == 89504e470d0a1a0a ]]
    check $? "... $name is a PNG"
    local width height
    width=$(number_at 16 "$1") height=$(number_at 20 "$1")
    ((width >= 300 && width <= 4000 && height >= 300 && height <= 4000))
    check $? "... $name is $width x $height"
    grep -aq "Command.msa dump .*$2" "$1" && grep -aq "Seed" "$1"
    check $? "... $name says which command made it"
}
self_contained() { # self_contained FILE
    ! grep -qaiE "https?://|//[a-z]+\.|@import| src=|<link" "$1" && ! grep -qF '@DATA@' "$1"
    check $? "... the page refers to nothing outside"
}

# ---- From tensors ---------------------------------------------------------------------------------------

P=$V/prefix # T 13, S 45, blocks of 8: the queries lie in blocks 4 and 5
tensors=(--qi "$P/qi.npy" --ki "$P/ki.npy")
runs "tensors with q and k" "${tensors[@]}" --q "$P/q.npy" --k "$P/k.npy" --block 8 --topk 3 --out "$W/full"
says '^layer 0 group 1: block recall 0\.[0-9]+, score recall 0\.[0-9]+$'
says '/full/index\.html$'
for name in ids scores; do
    cmp -s "$P/$name.npy" "$W/full/layer00_$name.npy"
    check $? "... layer00_$name.npy is that of the test vector"
done
shape_is "$W/full/layer00_mass.npy" "2, 13, 6"
shape_is "$W/full/layer00_fate.npy" "2, 13, 6"
shape_is "$W/full/layer00_recall.npy" "2, 2, 13"
shape_is "$W/full/frequency.npy" "1, 2, 2, 6"
picture "$W/full/layer00_group0.png" --topk
picture "$W/full/layer00_group1.png" --topk
picture "$W/full/frequency.png" --topk
self_contained "$W/full/index.html"

runs "tensors without q and k" "${tensors[@]}" --block 8 --topk 3 --out "$W/index only"
says '^layer 0 group 0: no recall without --q and --k$'
[[ ! -e "$W/index only/layer00_mass.npy" && -e "$W/index only/layer00_ids.npy" ]]
check $? "... there is no mass to write"
picture "$W/index only/layer00_group1.png" "'.*index only'"
if [[ -s $W/full/frequency.png ]]; then
    long="$W/keys of a name that is longer than the picture is wide.npy"
    cp "$P/ki.npy" "$long"
    runs "names that do not fit into a line" --qi "$P/qi.npy" --ki "$long" --q "$P/q.npy" --k "$P/k.npy" --block 8 --topk 3 --out "$W/wrapped"
    [[ $(number_at 20 "$W/wrapped/frequency.png") -gt $(number_at 20 "$W/full/frequency.png") ]]
    check $? "... go on in the next"
fi
runs "everything fits" "${tensors[@]}" --q "$P/q.npy" --k "$P/k.npy" --out "$W/full"
says 'every query reads all'
runs "a block of one token" --qi "$V/block1/qi.npy" --ki "$V/block1/ki.npy" --block 1 --topk 4 --out "$W/block1"
zeros() { # zeros FILE SHAPE COUNT: an array of float32
    head -c $((4 * $3)) /dev/zero | npy "$1" '<f4' "($2)"
}
zeros "$W/qi.npy" "5000, 2, 1" 10000
zeros "$W/ki.npy" "5000, 1" 5000
runs "more queries than the page has rows, all scores tied" --qi "$W/qi.npy" --ki "$W/ki.npy" --out "$W/long"
grep -q '"rows":1667,"stride":3' "$W/long/index.html"
check $? "... the page has every third"
picture "$W/long/layer00_group1.png" --out

# ---- From a model that reads a text ------------------------------------------------------------------------

# Everything that a page or a terminal could trip over: markup, quotes, UTF-8 whole and broken, control
# characters, right-to-left letters, an override of the direction.
{
    printf 'caf\303\251 \342\200\234q\342\200\235 \377\376\000\001\t<b>&amp;</script><img src=x onerror=alert(1)>\r\n'
    printf '\360\237\230\200 \330\263\331\204\330\247\331\205 \342\200\256 x \314\201\n\nend \303'
    for i in $(seq 60); do echo "line $i of a text: $((i * i % 97))"; done
} >"$W/odd <b>\"'&.txt"
text="$W/odd <b>\"'&.txt" model=$W/small.safetensors
if "$MSA" train --text "$text" --out "$model" --steps 4 --context 64 --layers 2 --d-model 16 --heads 2 --kv-heads 2 \
    --d-head 8 --d-index 8 --d-ff 24 --block 8 --topk 3 --index-warmup 2 >"$W.out" 2>"$W.err"; then
    runs "a text with every kind of byte" --model "$model" --text "$text" --tokens 300 --out "$W/text"
    shape_is "$W/text/layer01_scores.npy" "2, 300, 38"
    shape_is "$W/text/layer01_ids.npy" "2, 300, 3"
    shape_is "$W/text/frequency.npy" "2, 2, 38, 38"
    picture "$W/text/layer01_group1.png" --tokens
    self_contained "$W/text/index.html"
    runs "some layers, an offset" --model "$model" --text "$text" --layers 1 --offset 30 --tokens 20 --out "$W/one"
    [[ ! -e $W/one/layer00_ids.npy && -e $W/one/layer01_ids.npy ]]
    check $? "... only layer 1 is written"
    runs "one byte" --model "$model" --text "$text" --tokens 1 --out "$W/one"
    runs "the model's context by default" --model "$model" --text "$text" --out "$W/one"
    shape_is "$W/one/layer00_ids.npy" "2, 64, 3"
else
    skip "a text" "this build has no jansson, so no models"
    model=
fi

shipped=$(ls data/*.safetensors 2>/dev/null | grep -v -e dense -e gqa | head -n 1)
if [[ -n $model && -n $shipped ]]; then
    bytes=$(cat README.md Makefile ref/msa.h | head -c 2048 | tee "$W/readme.txt" | wc -c)
    runs "the shipped model on $bytes bytes" --model "$shipped" --text "$W/readme.txt" --out "$W/shipped"
    [[ $(stat -c %s "$W/shipped/index.html") -lt 6000000 ]]
    check $? "... the page is below 6 MB"
else
    skip "the shipped model" "there is none in data/"
fi

# ---- From several layers ------------------------------------------------------------------------------------

for layer in 01 03; do
    mkdir -p "$W/captured/layer$layer"
    cp "$P"/{q,k,qi,ki}.npy "$W/captured/layer$layer"
done
captured=(--captured "$W/captured" --block 8 --topk 3)
runs "layers that were captured" "${captured[@]}" --layers 1,3 --out "$W/layers"
says '^layer 3 group 1: block recall 0\.[0-9]+, score recall 0\.[0-9]+$'
"$MSA" dump "${tensors[@]}" --q "$P/q.npy" --k "$P/k.npy" --block 8 --topk 3 --out "$W/alone" >"$W.out" 2>"$W.err"
for name in ids fate mass recall; do
    cmp -s "$W/layers/layer03_$name.npy" "$W/alone/layer00_$name.npy"
    check $? "... layer03_$name.npy is that of its tensors alone"
done
shape_is "$W/layers/frequency.npy" "2, 2, 2, 6"
self_contained "$W/layers/index.html"
[[ $(grep -o '"layer":[0-9]*,"group":[0-9]*' "$W/layers/index.html" | tr '\n' ' ') == \
    '"layer":1,"group":0 "layer":1,"group":1 "layer":3,"group":0 "layer":3,"group":1 ' ]]
check $? "... and the page has both"
# A tensor in double, which is said when it is read.
mkdir -p "$W/captured/layer00"
cp "$P"/{k,qi,ki}.npy "$W/captured/layer00"
head -c $((13 * 4 * 16 * 8)) /dev/zero | npy "$W/captured/layer00/q.npy" '<f8' '(13, 4, 16)'
"$MSA" dump "${captured[@]}" --layers 0,1 --out "$W/once" >"$W.out" 2>"$W.err"
[[ $? -eq 0 && $(grep -c 'layer00/q.npy' "$W.err") -eq 1 ]]
check $? "each layer is read once"
mkdir -p "$W/captured/layer04"
cp "$V"/dense/{q,k,qi,ki}.npy "$W/captured/layer04"
"$MSA" dump "${captured[@]}" --layers 1,4 --out "$W/unlike" >"$W.out" 2>"$W.err"
[[ $? -eq 2 && $(wc -l <"$W.err") -eq 1 && ! -e $W/unlike/index.html ]] && grep -q "layer04: expected the sizes" "$W.err"
check $? "layers that differ: exit 2, one line, nothing written"

# ---- Refusals ---------------------------------------------------------------------------------------------

refuses() { # refuses WORD NAME ARGUMENT...: status 2, one line on stderr that holds WORD, nothing else anywhere
    local before status
    before=$(find "$W" | sort)
    "$MSA" dump "${@:3}" >"$W.out" 2>"$W.err"
    status=$?
    [[ $status -eq 2 && $(wc -l <"$W.err") -eq 1 && ! -s $W.out && $before == "$(find "$W" | sort)" ]] &&
        grep -qF -- "$1" "$W.err"
    check $? "$2: exit 2, one line that names $1"
}

out=(--out "$W/out")
refuses "--out:" "no directory" "${tensors[@]}"
refuses "--qi:" "nothing to dump" "${out[@]}"
refuses "--ki:" "no index keys" --qi "$P/qi.npy" "${out[@]}"
refuses "--k:" "q without k" "${tensors[@]}" --q "$P/q.npy" "${out[@]}"
refuses "--q:" "k without q" "${tensors[@]}" --k "$P/k.npy" "${out[@]}"
refuses "--text:" "a model without a text" --model "$P/qi.npy" "${out[@]}"
refuses "--model:" "a text without a model" --text "$P/qi.npy" "${out[@]}"
refuses "--qi:" "a model and tensors" --model x --text y "${tensors[@]}" "${out[@]}"
refuses "--block:" "a block size for a model" --model x --text y --block 8 "${out[@]}"
refuses "--layers:" "layers of tensors" "${tensors[@]}" --layers 0 "${out[@]}"
refuses "--qi:" "captured layers and tensors" "${captured[@]}" --layers 1 "${tensors[@]}" "${out[@]}"
refuses "--layers:" "captured layers without their numbers" "${captured[@]}" "${out[@]}"
refuses "--captured:" "captured layers and a model" --model x --text y --captured "$W/captured" "${out[@]}"
refuses "layer02/q.npy" "a layer that was not captured" "${captured[@]}" --layers 2 "${out[@]}"
refuses "--block:" "a block of nothing" "${tensors[@]}" --block 0 "${out[@]}"
refuses "--topk:" "no blocks" "${tensors[@]}" --topk 0 "${out[@]}"
refuses "absent" "no such file" --qi "$W/absent" --ki "$P/ki.npy" "${out[@]}"
refuses "ki.npy" "widths that differ" --qi "$P/qi.npy" --ki "$V/dense/ki.npy" "${out[@]}"
refuses "ids.npy" "the wrong type" --qi "$P/ids.npy" --ki "$P/ki.npy" "${out[@]}"
refuses "--out" "a directory that cannot be" "${tensors[@]}" --out "$W/none/out"
refuses "--out" "a file for a directory" "${tensors[@]}" --out "$P/qi.npy"
refuses "qi.npy" "a model that is no checkpoint" --model "$P/qi.npy" --text "$P/qi.npy" "${out[@]}"
refuses "absent" "a text that is not there" --model "$P/qi.npy" --text "$W/absent" "${out[@]}"
if [[ -n $model ]]; then
    both=(--model "$model" --text "$text" "${out[@]}")
    "$MSA" train --attention gqa --text "$text" --out "$W/dense.safetensors" --steps 1 --context 32 --layers 1 --d-model 8 \
        --heads 2 --kv-heads 2 --d-head 4 --d-index 4 --d-ff 8 --block 8 --topk 2 --index-warmup 0 >"$W.out" 2>"$W.err"
    refuses "dense attention" "a dense model" --model "$W/dense.safetensors" --text "$text" "${out[@]}"
    for layers in 2 -1 x 0, ,0 0,,1 1,0 0,0 '' 99999999999999999999; do
        refuses "--layers:" "--layers '$layers'" "${both[@]}" --layers "$layers"
    done
    refuses "--tokens:" "more tokens than the text has" "${both[@]}" --tokens 16000
    refuses "--tokens:" "absurdly many" "${both[@]}" --tokens 99999999
    refuses "--offset:" "an offset behind the text" "${both[@]}" --offset 100000
    : >"$W/empty"
    refuses "empty" "an empty text" --model "$model" --text "$W/empty" "${out[@]}"
fi

# ---- The page in a browser -----------------------------------------------------------------------------------

# Appended to a copy of the page: points and types, and leaves its findings as lines of text.
probe='<pre id="probe"></pre><script>
const lines = [];
const expect = (ok, name) => lines.push((ok ? "ok " : "not ok ") + name);
const query = () => Number(root.dataset.query);
const press = key => { map.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true })); };
const point = (target, x, y) => target.dispatchEvent(new PointerEvent("pointermove", { clientX: x, clientY: y, bubbles: true }));
expect(root.dataset.ready === "1", "the script ran to its end");
expect(query() === WANTED, "the hash selects a query");
press("ArrowRight"), expect(query() === WANTED + stride, "an arrow key moves on");
press("End"), expect(query() === first + snap(queries - 1), "End goes to the last query");
press("Home"), expect(query() === first, "Home goes to the first query");
press("ArrowLeft"), expect(query() === first, "and there it stays");
expect(map.getAttribute("aria-valuenow") === String(first), "a screen reader is told");
press("Escape");
const box = map.getBoundingClientRect();
point(map, box.left + frame.left + 2, box.top + frame.top + frame.h * 0.5);
expect(Math.abs(query() - first - queries / 2) <= Math.max(stride, 1 + queries / frame.h) && state.block === 0, "pointing at the map selects query and block");
const chosen = rowCells().filter(c => c.fate & CHOSEN);
expect(chosen.length === Math.min(topk, localBlock(state.query) + 1), "the query has its blocks");
expect($("rows").rows.length === rowCells().filter(c => c.fate).length, "the table lists them");
for (const radio of document.querySelectorAll("#modes input")) radio.click();
expect(state.mode === "fate" && $("caption").textContent.includes("not chosen"), "the map changes");
[...document.querySelectorAll("#heads input")].at(-1).click();
expect(state.view === views.length - 1 && $("status").textContent.startsWith(`layer ${views.at(-1).layer}, group 1`), "layer and group change");
if (text) {
  point(signOfByte[40].element, 0, 0), expect(query() === 40, "pointing at a letter selects it");
  expect(document.querySelectorAll("#text .both, #text .extra").length === rowCells().filter(c => c.fate & CHOSEN).length, "its blocks light up in the text");
  const letters = [...$("text").querySelectorAll("i")].map(e => e.textContent).join("");
  expect(letters.includes("&amp;</" + "script><img src=x") && document.images.length === 0, "markup in the text stays text");
  expect(signOfByte[3].length === 2 && signOfByte[14].kind === "hex", "UTF-8 is read, other bytes are shown in hex");
}
expect(performance.getEntriesByType("resource").length === 0, "nothing is fetched");
expect(root.dataset.error === undefined, "no error: " + root.dataset.error);
expect(root.scrollWidth <= root.clientWidth, "nothing sticks out at the side");
$("probe").textContent = "\n" + lines.join("\n") + "\n";
</script>'

browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome)
browse() { # browse NAME DIR QUERY SIZE
    if [[ -z $browser ]]; then
        skip "$1 in a browser" "no chromium here"
        return
    fi
    { cat "$2/index.html" && echo "${probe//WANTED/$3}"; } >"$W/probe.html"
    tests/support/watched.sh "$browser" --headless --no-sandbox --disable-gpu --user-data-dir="$W/profile" --window-size="$4" \
        --virtual-time-budget=4000 --dump-dom "file://$W/probe.html#q=$3" >"$W.out" 2>/dev/null
    sed -n 's/^.*<pre id="probe">//; /^ok \|^not ok /p' "$W.out" >"$W/lines"
    : >"$W.out"
    : >"$W.err"
    [[ -s $W/lines ]]
    check $? "$1 in $(basename "$browser") at $4"
    while IFS= read -r line; do
        [[ $line == ok* ]]
        check $? "... ${line#*ok }"
    done <"$W/lines"
}
browse "tensors" "$W/full" 40 1400,900
browse "the index alone" "$W/index only" 40 1400,900
browse "every third query" "$W/long" 300 1400,900
[[ -z $model ]] || browse "a text" "$W/text" 100 1400,900
[[ -z $model ]] || browse "a text" "$W/text" 100 500,844

finish
