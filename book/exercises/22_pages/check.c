/* One new token of 8 sequences of different lengths, in scattered pages, against msa_decode on each sequence
 * alone; and the bytes of the cache that were read. The picture has the pages of the first pool. */
#include "task.h"

#include <stdio.h>

#define SEQUENCES 8
#define LONGEST 8 // pages
#define BLOCK 8
#define TOPK 3
#define WIDTH 16
#define INDEX_WIDTH 8
#define POOL (SEQUENCES * LONGEST) // pages

/* The pool, [POOL] pages of each tensor. */
typedef struct pool {
    float *k, *v, *ki;
    tensor keys_of, values_of, index_keys_of;
    touched keys, values, index_keys; // a column is a row of the pool
    int32_t page[SEQUENCES][LONGEST];
    int64_t length[SEQUENCES];
} pool;

static float *new_rows(int width)
{
    return exercise_floats(POOL * BLOCK * width);
}

/* Lengths that end anywhere in a page, one of them a single token; pages dealt at random. */
static void lay_out(pool *p, inputs_rng *rng)
{
    int32_t all[POOL];
    for (int32_t a = 0; a < POOL; a++) {
        const int64_t b = inputs_below(rng, a + 1);
        all[a] = all[b];
        all[b] = a;
    }
    for (int s = 0; s < SEQUENCES; s++) {
        p->length[s] = s == 0 ? 1 : s == 1 ? 2 * BLOCK : 1 + inputs_below(rng, LONGEST * BLOCK);
        for (int b = 0; b < LONGEST; b++)
            p->page[s][b] = b * BLOCK < p->length[s] ? all[s * LONGEST + b] : -1;
    }
}

static pool *new_pool(uint64_t seed)
{
    inputs_rng rng = {seed};
    pool *p = exercise_alloc(sizeof *p);
    *p = (pool){new_rows(WIDTH), new_rows(WIDTH), new_rows(INDEX_WIDTH),
                .keys = touched_new(1, POOL * BLOCK, "", ""),
                .values = touched_new(1, POOL * BLOCK, "", ""),
                .index_keys = touched_new(1, POOL * BLOCK, "", "")};
    p->keys_of = exercise_rows("&c->k", p->k, POOL * BLOCK, 1, WIDTH, &p->keys);
    p->values_of = exercise_rows("&c->v", p->v, POOL * BLOCK, 1, WIDTH, &p->values);
    p->index_keys_of = exercise_rows("&c->ki", p->ki, POOL * BLOCK, 1, INDEX_WIDTH, &p->index_keys);
    lay_out(p, &rng);
    return p;
}

/* The tokens of a sequence to its pages; what is behind them stays NaN. */
static void fill(pool *p, int s, const inputs *in)
{
    for (int64_t j = 0; j < p->length[s]; j++) {
        const int64_t at = p->page[s][j / BLOCK] * (int64_t)BLOCK + j % BLOCK;
        memcpy(p->k + at * WIDTH, in->k + j * WIDTH, WIDTH * sizeof(float));
        memcpy(p->v + at * WIDTH, in->v + j * WIDTH, WIDTH * sizeof(float));
        memcpy(p->ki + at * INDEX_WIDTH, in->ki + j * INDEX_WIDTH, INDEX_WIDTH * sizeof(float));
    }
}

/* Tokens of the chosen blocks. */
static int64_t support(const int32_t *ids, int64_t length)
{
    int64_t n = 0;
    for (int a = 0; a < TOPK && ids[a] >= 0; a++) {
        const int64_t left = length - (int64_t)ids[a] * BLOCK;
        n += left < BLOCK ? left : BLOCK;
    }
    return n;
}

static uint64_t bytes_read(const pool *p)
{
    return 4 * (WIDTH * (p->keys.reads + p->values.reads) + INDEX_WIDTH * p->index_keys.reads);
}

/* The bytes that the sequences need. The local block is chosen whatever its score, and so are all where there
 * are no more than TOPK, so an answer may leave these index keys out. */
typedef struct need {
    uint64_t least, most;
} need;

static void judge(pool *p, int s, inputs_pattern pattern, touched *pages, need *all)
{
    const msa_shape shape = {1, p->length[s], 1, 1, WIDTH, INDEX_WIDTH, BLOCK, TOPK, 1, NULL, NULL, NULL, NULL};
    const inputs in = exercise_inputs(&shape, pattern);
    int32_t *table = answer_given(LONGEST * 4, "page");
    const cache c = {p->keys_of, p->values_of, p->index_keys_of, table, p->length[s], BLOCK};
    float *q = exercise_given(WIDTH, "q"), *qi = exercise_given(INDEX_WIDTH, "qi");
    float *expected = exercise_floats(WIDTH), *found = exercise_wanted(WIDTH, "o");
    int32_t ids[TOPK];
    char what[80];
    fill(p, s, &in);
    msa_decode(&shape, NULL, in.q, in.k, in.v, in.qi, in.ki, ids, expected, NULL,
               exercise_alloc((int64_t)msa_workspace(NULL, &shape)));
    memset(p->keys.count, 0, POOL * BLOCK * sizeof *p->keys.count);
    memcpy(table, p->page[s], LONGEST * 4);
    exercise_give(q, in.q, WIDTH);
    exercise_give(qi, in.qi, INDEX_WIDTH);
    ANSWER(decode(q, qi, &c, TOPK, found));
    for (int64_t a = 0; a < POOL * BLOCK; a++)
        pages->count[s * POOL + a / BLOCK] += p->keys.count[a];
    snprintf(what, sizeof what, "sequence %d (length %lld, %s inputs), o", s, (long long)p->length[s],
             inputs_pattern_name(pattern));
    exercise_tensor(what, (verdict_dims){1, 1, WIDTH}, expected, found,
                    verdict_float32(&shape, &in, ARRAY_O, 1));
    const int64_t blocks = (p->length[s] + BLOCK - 1) / BLOCK, attended = 2 * WIDTH * support(ids, p->length[s]);
    all->most += 4 * (uint64_t)(INDEX_WIDTH * p->length[s] + attended);
    all->least += 4 * (uint64_t)((blocks > TOPK ? INDEX_WIDTH * (blocks - 1) * BLOCK : 0) + attended);
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    touched pages = touched_new(SEQUENCES, POOL, "sequence", "page of the pool: rows of K read");
    touched unseen = touched_new(SEQUENCES, POOL, "", "");
    need all = {0, 0};
    uint64_t bytes = 0;
    for (int a = 0; a < 2; a++) {
        pool *p = new_pool(exercise_seed() + (uint64_t)a);
        for (int s = 0; s < SEQUENCES; s++)
            judge(p, s, a == 0 ? INPUTS_DISTINCT : INPUTS_TIES, a == 0 ? &pages : &unseen, &all);
        bytes += bytes_read(p);
    }
    exercise_bar((exercise_count){"bytes of the cache read", bytes, all.least, all.most, "row(&c->k, r, 0)"});
    return exercise_end(&pages);
}
