#!/usr/bin/env bash
# "How to add" of README.md, done to the letter in a copy of the tree: a kernel, a selector, a command, a test, a
# chapter, an exercise and a stage, each with its files and its line. The program, its help, check, count and the book
# then know it by themselves. Nothing is compiled but what that changes; for a stage, which is everything, unoptimised
# and without kernels.
source "$(dirname "$0")/support/tap.sh"
B=$(realpath "${B:-build}") MAKE=${MAKE:-make} T=$W/tree program=build/msa
if grep -q fsanitize "$B/flags"; then
    skip "adding things" "the build without sanitizers does that"
    finish
fi

make_in() { # make_in TARGET...: in the copy, as this build was made but for the GPU
    $MAKE -s -C "$T" B=build DEPS=0 CUDA= COMMIT=none "$@" > "$W.out" 2> "$W.err"
}
runs() { # runs STATUS ARGUMENT...: the copy's program
    (cd "$T" && "$program" "${@:2}") > "$W.out" 2> "$W.err"
    [[ $? -eq $1 ]]
}
says() { grep -qE -- "$1" "$W.out"; }
warned() { grep -qE ':[0-9]+:.*(warning|error):' "$W.err"; }
judged() { # judged NAME: by msa check, and well
    runs 0 check "$1" && says "^$1 +[a-z]+ +T=.* ok" && says '^[1-9][0-9]* ok, 0 failed'
}
before() { # before PATTERN FILE: standard input, ahead of the first line that matches
    awk -v pattern="$1" 'FILENAME == "-" {text = text $0 "\n"; next} !done && $0 ~ pattern {printf "%s", text; done = 1} {print}' - "$T/$2" > "$W/edited" &&
        cp "$W/edited" "$T/$2"
}

# The copy: of the book what all chapters and all exercises share.
mkdir -p "$T"/{build,tests,book/{exercises,examples,figures}}
cp -a Makefile .ci ref cuda "$T/"
cp -a tests/{run.sh,support,test_contract.c,test_kernels.c,test_variants.c} "$T/tests/"
cp -a book/*.mk book/index.md book/site "$T/book/"
for room in exercises examples figures; do find book/$room -maxdepth 1 -type f ! -name '[0-9]*' -exec cp -a {} "$T/book/$room/" \;; done
sed -i '/@TIMES/d' "$T/book/index.md" # of paths through chapters that are not here
cp -a "$B"/{cuda,ref,flags,sides} "$T/build/"
make_in build/flags && touch -r "$B/flags" "$T/build/flags" # other ones, and nothing compiled anew for them

# ---- A kernel --------------------------------------------------------------------------------------------

kernel() { # kernel N NAME: the first of topk under another name
    sed "s/register_list/$2/g" cuda/topk/1_register_list.cu > "$T/cuda/topk/$1_$2.cu"
}
kernel 10 again
before '^BEST.topk' cuda/kernels.def << 'END'
KERNEL(topk, again, 80, FLOAT32, T(TOPK), "the first once more")
END

# ---- A word for what kernels take; and one that says nothing of what it takes -----------------------------

before '^TAKES.TOPK' cuda/takes.def << 'END'
TAKES(EVEN, "T even", s->n_q % 2 == 0, {"T", s->n_q})
END
kernel 11 even
kernel 12 anyhow
before '^BEST.topk' cuda/kernels.def << 'END'
KERNEL(topk, even, 80, FLOAT32, T(SAME_BITS) T(TOPK) T(EVEN), "the first where T is even")
KERNEL(topk, anyhow, 80, FLOAT32, , "the first, whatever the shape")
END

# ---- A selector ------------------------------------------------------------------------------------------

before '^#define SELECTOR' ref/fast/index_selectors.c << 'END'
static void score_early(const msa_shape *s, const float *qi, const index_keys *keys, int64_t local, float *row)
{
    (void)s, (void)qi, (void)keys;
    for (int64_t b = 0; b < local; b++)
        row[b] = -(float)b;
}

END
before '^#undef' ref/fast/selectors.def << 'END'
SELECTOR(EARLY, early, false, "the earliest blocks")
END

# ---- A command -------------------------------------------------------------------------------------------

cat > "$T/ref/cli/blocks.c" << 'END'
/* msa blocks: how many blocks so many keys are. */
#include <stdio.h>

#include "cli.h"

int cmd_blocks(int argc, char **argv)
{
    int64_t keys = 1024, block = 128;
    const cli_option options[] = {{"--keys", CLI_INT, &keys, 1, 1 << 20, "N keys"},
                                  {"--block", CLI_INT, &block, 1, 1 << 20, "N tokens in a block"},
                                  {0}};
    const int status = cli_parse(argc, argv, options, NULL);
    if (status == 0)
        printf("%d\n", (int)((keys + block - 1) / block));
    return status;
}
END
before '^COMMAND.help' ref/cli/commands.def << 'END'
COMMAND(blocks, "how many blocks so many keys are")
END

# ---- A test ----------------------------------------------------------------------------------------------

cat > "$T/tests/test_again.c" << 'END'
/* The first of topk once more. */
#include <string.h>

#include "../ref/table/table.h"
#include "support/check.h"

int main(int argc, char **argv)
{
    check_start(argc, argv);
    check_case c = check_begin("topk/again takes what the first takes");
#ifdef HAVE_SIMT
    const msa_kernel *first = table_find("topk/register_list", "simt"), *again = table_find("topk/again", "simt");
    check_true(&c, again && strcmp(again->constraints, first->constraints) == 0, "another text");
    check_end(&c);
#else
    (void)c;
    tap_skip("topk/again", "no C++ compiler here");
#endif
    return check_done();
}
END
cat > "$T/tests/test_again.sh" << 'END'
#!/usr/bin/env bash
# msa kernels lists the first of topk once more.
source "$(dirname "$0")/support/tap.sh"
"$MSA" kernels | grep -q '^topk/again'
check $? "msa kernels lists topk/again"
finish
END

# ---- What is forgotten -----------------------------------------------------------------------------------

kernel 13 forgotten
printf 'size_t fast_forgotten_workspace(const msa_shape *s)\n' > "$T/ref/fast/topk_forgotten.c"
! make_in build/listed && grep -q 'topk/13_forgotten.cu: .*KERNEL(topk, forgotten, ' "$W.err" &&
    grep -q 'topk_forgotten.c: .*KERNEL(STAGE, NAME, fast_forgotten, ' "$W.err"
check $? "a kernel whose line is forgotten is named"
rm "$T/cuda/topk/13_forgotten.cu" "$T/ref/fast/topk_forgotten.c"
mv "$T/ref/fast/sparse_lanes.c" "$T/ref/fast/lanes.c"
! make_in build/listed && grep -q 'sparse/lanes: expected fast_sparse_lanes() in ref/fast/sparse_lanes.c' "$W.err"
check $? "one that is not in the file of its stage and name is named"
mv "$T/ref/fast/lanes.c" "$T/ref/fast/sparse_lanes.c"

make_in build/msa && ! warned
check $? "they compile and link without a warning, and without a word elsewhere"
if grep -q HAVE_SIMT "$T/build/sides"; then
    runs 0 kernels && says $'^topk/again\tsimt\tk <= 32\tthe first once more$'
    check $? "a kernel: msa kernels lists it"
    judged topk/again
    check $? "... check judges it"
    runs 0 kernels && says $'^topk/even\tsimt\tT even, k <= 32\t' && says $'^topk/anyhow\tsimt\tany shape\t'
    check $? "... what it takes is said by the words of takes.def, and is any shape without one"
    runs 0 check topk/even && says '^topk/even +[a-z]+ +T=[0-9]*[02468] .* ok' && ! says '^topk/even +[a-z]+ +T=[0-9]*[13579] .* ok'
    check $? "... a new word keeps it to its shapes"
    runs 0 count topk && head -n 3 "$W.out" | grep -q 'topk/again'
    check $? "... count counts it beside the others"
    make_in build/tests/test_kernels && (cd "$T" && build/tests/test_kernels 1 topk/again) > "$W.out" && says '^ok 1 - topk/again agrees'
    check $? "... its test has it"
    make_in build/tests/test_again && (cd "$T" && MSA=build/msa SHARE=1/1 tests/run.sh build/tests/test_again tests/test_again.sh) > "$W.out" && says '^2 passed, 0 failed, 0 skipped'
    check $? "a test: in C it is told of the engine, and run.sh runs both kinds"
else
    skip "a kernel" "no C++ compiler here"
fi
runs 0 kernels && says $'^index/early\tref\tany shape\tthe earliest blocks$'
check $? "a selector: msa kernels lists it"
judged index/early
check $? "... check judges it"
runs 0 help evaluate && says 'of a rule .*, early$'
check $? "... --selector knows its name"
make_in build/tests/test_variants && (cd "$T" && build/tests/test_variants 1) > "$W.out" && says '^ok [0-9]+ - selector early'
check $? "... its test has it"
runs 0 help && says '^  blocks     how many blocks so many keys are$' && runs 0 help blocks && says '^ +--keys' &&
    runs 0 blocks --keys 1000 && says '^8$' && runs 2 blocks --frobnicate
check $? "a command: help lists it, and it runs"

# ---- A chapter -------------------------------------------------------------------------------------------

printf '# Chapter 19: Once more {#ch19}\n\n\\snippet 19_again.c all\n' > "$T/book/19_again.md"
cat > "$T/book/examples/19_again.c" << 'END'
/* Chapter 19: the program of a chapter. */
#include "example.h"

int main(void)
{
    /* [all] */
    printf("%s\n", msa_strerror(MSA_OK));
    /* [all] */
    return 0;
}
END
cat > "$T/book/figures/19_again.c" << 'END'
/* A box. */
#include "draw.h"

int main(void)
{
    begin(100, 50, "A box");
    box(10, 10, 80, 30, BLUE, 1);
    return finish();
}
END
sed -i 's/^@PART 15 18 /@PART 15 19 /' "$T/book/index.md"
make_in chapter N=19 && says '^success$'
check $? "a chapter: make chapter builds and runs its program"
make_in book-figures && cmp -s "$T/book/examples/19_again.out" <(echo success) && grep -q '<title>A box' "$T/book/figures/19_again.svg"
check $? "... make book-figures stores what it prints and draws"
(cd "$T" && book/site/check_chapters.sh build && book/site/check_snippets.sh && book/site/filter_page.sh book/index.md) > "$W.out" 2> "$W.err" && says '^- @ref ch19'
check $? "... the book checks it, and lists it"

# ---- An exercise -----------------------------------------------------------------------------------------

cp -a book/exercises/01_attention "$T/book/exercises/28_again" && rm -f "$T"/book/exercises/28_again/mine*
sed -i 's/^\*Chapter 1,/*Chapter 19,/' "$T/book/exercises/28_again/statement.md"
make_in exercise N=28 && says '^not yet: ' && cp "$T"/book/exercises/28_again/{solution,mine}.c && make_in exercise N=28 && says '^pass '
check $? "an exercise: its stub is turned down, its solution passes"
make_in progress && says '28_again' && (cd "$T" && book/site/list_exercises.sh) > "$W.out" && says '@ref ex28 .*@ref ch19'
check $? "... make progress and the book list it"

# ---- A stage ---------------------------------------------------------------------------------------------

before '^/.. The other direction, KL' ref/msa.h << 'END'
/** Attention that weighs all visible keys alike: O is the mean of their values; seen [S] what each key was given. */
typedef msa_status msa_uniform_fn(const msa_shape *s, const float *v, float *o, float *seen, void *work);
msa_uniform_fn msa_uniform; /* uniform.c */

END
cat > "$T/ref/uniform.c" << 'END'
/* Attention that weighs all visible keys alike. */
#include "internal.h"

static size_t place(double **sum, const msa_shape *s, void *work)
{
    arena a = arena_over(work);
    *sum = arena_take(&a, s->d_head, sizeof **sum);
    return arena_bytes(&a);
}

size_t uniform_workspace(const msa_shape *s)
{
    double *sum;
    return place(&sum, s, NULL);
}

msa_status msa_uniform(const msa_shape *s, const float *v, float *o, float *seen, void *work)
{
    MSA_TRY(msa_check_shape(s));
    if (!v || !o || !seen || !work)
        return MSA_ERR_NULL;
    memset(seen, 0, (size_t)s->n_kv * sizeof *seen);
    const int d = s->d_head, group = s->n_heads / s->n_kv_heads;
    double *sum;
    place(&sum, s, work);
    for (int r = 0; r < msa_n_seqs(s); r++) {
        const msa_seq seq = msa_get_seq(s, r);
        for (int64_t a = 0; a < seq.n_q * s->n_heads; a++) {
            const int64_t n = position(&seq, a / s->n_heads) + 1, g = a % s->n_heads / group;
            memset(sum, 0, (size_t)d * sizeof *sum);
            for (int64_t j = seq.kv0; j < seq.kv0 + n; j++)
                axpy(1 / (double)n, v + (j * s->n_kv_heads + g) * d, d, sum), seen[j] += 1 / (float)n;
            for (int c = 0; c < d; c++)
                o[(seq.q0 * s->n_heads + a) * d + c] = (float)sum[c];
        }
    }
    pad_outputs(s, NULL, o, NULL);
    return MSA_OK;
}
END
before '^STAGE.DENSE,' ref/stages.def << 'END'
ARRAY(SEEN, seen, "S", FLOAT)

END
before '^    double .loss;' ref/msa.h << 'END'
    const void *seen; /**< output of uniform */
END
before '^#undef ARRAY' ref/stages.def << 'END'
STAGE(UNIFORM, uniform, "mean of all visible values", A(V), A(O) | A(SEEN), 0, s, a->v, OUT(o), OUT(seen), work)

END
program=build/bare/msa
make_in B=build/bare CXX=false CFLAGS=-O0 FASTFLAGS=-Wno-psabi build/bare/msa build/bare/tests/test_contract && ! warned
check $? "with a stage all compiles without a warning"
runs 0 kernels && says $'^uniform/reference\tref\tany shape\tmean of all visible values$'
check $? "a stage: msa kernels lists it"
judged uniform/reference
check $? "... check judges it"
runs 0 bench uniform/reference --shape 'T=8 S=16 heads=2:1 width=16:16 block=8 topk=2' --seconds 0.01 --json "$W/uniform.json" &&
    says '^uniform/reference .* ok' && grep -q '"stage": "uniform"' "$W/uniform.json"
check $? "... bench judges, times and stores it"
runs 0 results --roofline "$W/uniform.svg" "$W/uniform.json" && says '^[*][*]uniform[*][*], ' && grep -q uniform "$W/uniform.svg"
check $? "... it stands under the roof of its run"
(cd "$T" && build/bare/tests/test_contract 1) > "$W.out" && says '^ok .* every pointer'
check $? "... its contract is tested"
PYTHON=${PYTHON:-python3}
if "$PYTHON" -c 'import numpy' 2> /dev/null; then
    make_in B=build/bare CXX=false CFLAGS=-O0 FASTFLAGS=-Wno-psabi build/bare/libmsa.so
    MSA_LIBRARY=$T/build/bare/libmsa.so PYTHONPATH=$T/ref/python PYTHONDONTWRITEBYTECODE=1 "$PYTHON" -c '
import msa, numpy as np
v = np.arange(12, dtype=np.float32).reshape(3, 1, 4)
o, seen = msa.uniform(v, n_q=2, n_heads=1)
print(o[:, 0].tolist(), seen.tolist(), msa.uniform.__doc__)
msa.uniform(v[0], n_q=2, n_heads=1)' > "$W.out" 2> "$W.err"
    says '^\[\[2.0, 3.0, 4.0, 5.0\], \[4.0, 5.0, 6.0, 7.0\]\] \[0.83.*, 0.83.*, 0.33.*\] o \[T,Hq,dh\], seen \[S\] from v \[S,Hkv,dh\]\. .*mean of all' &&
        grep -qF 'msa.Error: v: expected shape (S, Hkv, dh), found (1, 4)' "$W.err"
    check $? "... msa for Python has it, with its checks"
else
    skip "a stage in Python" "no Python with NumPy here"
fi
finish
