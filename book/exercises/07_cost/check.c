/* Exact pairs against sums token by token, at lengths at which no sum can be taken against sums block by block; then from where on
 * MSA pays. The picture is the ratio that the student's counts give. */
#include "task.h"

typedef struct counts {
    int64_t dense, main, index;
} counts;

/* Whether the index has to choose for a token of block b, and how many whole blocks that token keeps. */
static bool chooses(const msa_shape *s, int64_t b)
{
    return b >= s->topk;
}
static int64_t whole_blocks(const msa_shape *s, int64_t b)
{
    return chooses(s, b) ? s->topk - 1 : b;
}

/* Token by token. */
static counts by_token(const msa_shape *s, int64_t n)
{
    counts c = {0, 0, 0};
    for (int64_t i = 0; i < n; i++) {
        const int64_t b = i / s->block;
        c.dense += i + 1;
        c.main += whole_blocks(s, b) * s->block + i % s->block + 1;
        c.index += chooses(s, b) ? b * s->block : 0;
    }
    return c;
}

/* Block by block; the own blocks of all tokens are alike, up to the last. */
static counts by_block(const msa_shape *s, int64_t n)
{
    counts c = {n * (n + 1) / 2, 0, 0};
    for (int64_t b = 0; b * s->block < n; b++) {
        const int64_t left = n - b * s->block, tokens = left < s->block ? left : s->block;
        c.main += tokens * (tokens + 1) / 2 + tokens * whole_blocks(s, b) * s->block;
        c.index += chooses(s, b) ? tokens * b * s->block : 0;
    }
    return c;
}

static counts *found; /* what the answer says */

static void judge(const msa_shape *s, int64_t n, counts expected)
{
    ANSWER(*found = (counts){pairs_dense(n), pairs_main(s, n), pairs_index(s, n)});
    const int64_t want[] = {expected.dense, expected.main, expected.index},
                  got[] = {found->dense, found->main, found->index};
    const char *name[] = {"pairs_dense", "pairs_main", "pairs_index"};
    for (int i = 0; i < 3; i++)
        exercise_true(want[i] == got[i], "%s at n = %lld, blocks of %d, topk = %d: expected %lld, found %lld",
                      name[i], (long long)n, s->block, s->topk, (long long)want[i], (long long)got[i]);
}

/* The first token after which MSA has saved something; -1 if it never will. */
static int64_t pays(const msa_shape *s)
{
    const int64_t pair = 2 * (int64_t)s->n_heads * s->d_head, index = (int64_t)s->n_kv_heads * s->d_index;
    int64_t saved = 0;
    for (int64_t b = s->topk; pair > index; b++) {
        const int64_t gain =
            (pair * (b - s->topk + 1) - index * b) * s->block; /* of each token of the block */
        if (gain > 0 && saved + gain * s->block > 0)
            return b * s->block - saved / gain + 1;
        saved += gain * s->block;
    }
    return -1;
}

static void judge_pays(const msa_shape *s)
{
    const int64_t expected = pays(s);
    ANSWER(found->dense = pays_from(s));
    exercise_true(found->dense == expected,
                  "pays_from, %d heads of %d in %d groups, index width %d, blocks of %d, topk = %d: expected "
                  "%lld, found %lld",
                  s->n_heads, s->d_head, s->n_kv_heads, s->d_index, s->block, s->topk, (long long)expected,
                  (long long)found->dense);
}

/* At the paper's geometry, which ends at no whole block; the long texts allow no loop over tokens. */
static void judge_paper(const msa_shape *paper)
{
    static const int64_t length[] = {1, 127, 128, 129, 2047, 2048, 2049, 3000};
    for (size_t i = 0; i < sizeof length / sizeof *length; i++)
        judge(paper, length[i], by_token(paper, length[i]));
    for (int64_t n = 4097; n < 1 << 30; n = 4 * n + 1)
        judge(paper, n, by_block(paper, n));
    const int64_t longest = (int64_t)1 << 40, kept = (int64_t)paper->topk * paper->block;
    const int64_t expected = by_block(paper, kept).main +
                             (longest - kept) / paper->block *
                                 (by_block(paper, kept + paper->block).main - by_block(paper, kept).main);
    ANSWER(found->main = pairs_main(paper, longest));
    exercise_true(found->main == expected, "pairs_main at n = 2^40: expected %lld, found %lld",
                  (long long)expected, (long long)found->main);
    judge_pays(paper);
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    const msa_shape paper = {1, 1, 64, 4, 128, 128, 128, 16, 1, NULL, NULL, NULL, NULL};
    inputs_rng rng = {exercise_seed()};
    touched curve = touched_new(40, 120, "dense / MSA, 0 at the bottom, 40 at the top",
                                "length, 1K to 1M on a log scale");
    found = answer_wanted(sizeof *found, "the result");
    judge_paper(&paper);
    for (int a = 0; a < 40; a++) {
        msa_shape s = paper;
        s.n_kv_heads = 1 + (int)inputs_below(&rng, 8);
        s.n_heads = s.n_kv_heads * (1 + (int)inputs_below(&rng, 3));
        s.d_head = 32 + (int)inputs_below(&rng, 100);
        s.d_index = 32 + (int)inputs_below(&rng, 200);
        s.topk = 1 + (int)inputs_below(&rng, 32);
        s.block = 1 + (int)inputs_below(&rng, 64);
        const int64_t n = 1 + inputs_below(&rng, 4000);
        judge(&s, n, by_token(&s, n));
        const int64_t pair = 2 * (int64_t)s.n_heads * s.d_head, index = (int64_t)s.n_kv_heads * s.d_index;
        if (pair <= index || pair - index > pair / 16) /* never, or before 2^24 */
            judge_pays(&s);
    }
    for (int64_t x = 0; x < curve.columns; x++) {
        const int64_t n = (int64_t)(1024 * pow(1024, (double)x / (double)(curve.columns - 1)));
        ANSWER(*found = (counts){pairs_dense(n), pairs_main(&paper, n), pairs_index(&paper, n)});
        const double ratio = 32 * (double)found->dense / (32 * (double)found->main + (double)found->index);
        touched_mark(&curve, curve.rows - 1 - (int64_t)fmin(fmax(ratio, 0), 1000), x);
    }
    return exercise_end(&curve);
}
