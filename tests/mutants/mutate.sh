# Sourced by the lists of mutants: wrong variants of the code, each of which a named test must catch. A check
# that no mistake can fail is worth nothing, and this is the proof that these can.
#
# A mutant is named by the function that it is in and says which tokens there others take the place of, as
# mutate.pl explains: no file and no layout, so that it stays the same mistake when code is moved, reformatted or
# names its variables otherwise. It must apply, compile, and make the test print "not ok" or crash; TEST is a
# program, or a program and the kernel that it is to judge alone.
# A WORD takes those whose names contain it, PIECE=2/5 in the environment the second of five shares; APPLY=1 only
# asks whether they apply to the code as it is.
# TREES copies of the tree work side by side; afterwards each gets back what the mutant changed, compiled too.
source "$(dirname "${BASH_SOURCE[0]}")/../support/tap.sh"
if ! command -v perl > /dev/null; then
    skip "mutants" "no perl here"
    finish
fi

MAKE=${MAKE:-make}
B=${B:-build}
TREES=$(($(nproc) < 4 ? $(nproc) : 4))
names=() tests=() edits=()
only=${1:-} piece=${PIECE:-1/1} met=0

mutant() { # mutant NAME FUNCTION TEST WHAT INSTEAD [WHAT INSTEAD]...
    [[ $1 == *"$only"* ]] && ((met++ % ${piece#*/} == ${piece%/*} - 1)) || return
    names+=("$1") tests+=("$3")
    set -- "$2" "${@:4}"
    edits+=("${*@Q}")
}

plant_tree() { # with what is built already, but nothing of other builds
    mkdir -p "$1/build"
    cp -a .ci Makefile book ref cuda tests data README.md "$1/"
    cp -a "$B"/{cuda,ref,tests,flags,sides,commit.inc} "$1/build/"
    make_in "$1" build/flags && touch -r "$B/flags" "$1/build/flags" # other ones, and nothing compiled anew for them
    touch "$1/planted"
}

# Kernels unoptimised: they compile in a fifth of the time, and run hardly slower: most of a run is the engine.
make_in() { # make_in TREE TARGET
    $MAKE -s -C "$1" B=build CUDA= CXXFLAGS=-O0 COMMIT="$COMMIT" "$2" > "$1.err" 2>&1
}
build() { # build TREE TEST
    make_in "$1" "build/tests/${2%% *}"
}

catches() { # catches TREE TEST: prints the first failure, if there is one; a test that hangs has not failed
    local program kernel first status
    read -r program kernel <<< "$2"
    first=$(
        cd "$1" && tests/support/watched.sh "build/tests/$program" 1 $kernel 2>&1 |
            grep --line-buffered -v '^# spoiled on purpose' | grep -m1 -E '^#.*not true|^not ok'
        exit "${PIPESTATUS[0]}"
    )
    status=$?
    if [[ -n $first ]]; then
        sed -E 's/^.*not true: //; s/^not ok [0-9]* - //; s/T=[^,]*, //; s/order [0-9], timing [0-9]: //' <<< "$first" | cut -c1-110
    elif [[ $status -ne 0 && $status -ne 124 ]]; then
        echo "exit status $status"
    fi
}

restore() { # restore TREE: whatever is newer than the tree
    local changed
    while IFS= read -r changed; do
        local original=$changed
        [[ $changed != build/* ]] || original=$B/${changed#build/}
        if [[ -e $original ]]; then cp -p "$original" "$1/$changed"; else rm -f "$1/$changed"; fi
    done < <(cd "$1" && find ref cuda tests build -type f -newer planted)
}

try() { # try TREE NUMBER: the first line of $W/verdict.NUMBER is "0" (caught) or "1", the second what to print
    local tree=$1 test=${tests[$2]} status=1 says first
    : > "$tree.err"
    eval "local edit=(${edits[$2]})"
    if ! says=$(tests/mutants/mutate.pl "$tree" "${edit[@]}" 2>&1); then
        :
    elif ! build "$tree" "$test"; then
        says="does not compile"
    elif first=$(catches "$tree" "$test"); [[ -z $first ]]; then
        says="not caught by ${test##* }"
    else
        status=0 says="caught by ${test##* }: $first"
    fi
    restore "$tree"
    { echo "$status"; echo "${names[$2]}: $says"; head -n 8 "$tree.err"; } > "$W/verdict.$2"
}

work() { # work TREE: tries what nobody has taken yet
    plant_tree "$1"
    for i in "${!names[@]}"; do
        if mkdir "$W/taken.$i" 2> /dev/null; then try "$1" "$i"; fi
    done
}

apply_all() { # all at once: each that does not apply is a line
    local all=()
    eval "all=($(printf -- '-- %s ' "${edits[@]}"))"
    tests/mutants/mutate.pl '' "${all[@]:1}" 2> "$W.err"
    check $? "all ${#names[@]} mutants apply"
    finish
}

try_all() {
    [[ -z ${APPLY:-} ]] || apply_all
    COMMIT=$(sed -n 's/.*"\(.*\)"$/\1/p' "$B/commit.inc") # else a tree without a repository would compile it anew
    for ((t = 0; t < TREES; t++)); do
        work "$W/tree.$t" &
    done
    wait
    for i in "${!names[@]}"; do
        { read -r status; IFS= read -r says; cat > "$W.err"; } < "$W/verdict.$i"
        check "$status" "$says"
    done
}
