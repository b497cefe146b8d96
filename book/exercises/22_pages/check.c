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

/* The pool, [POOL + 1] pages of each tensor. Page -1 is there too, and spoils whoever reads it. */
typedef struct pool {
    float *k, *v, *ki;
    touched keys, values, index_keys; // a column is a row of the pool
    int32_t page[SEQUENCES][LONGEST];
    int64_t length[SEQUENCES];
} pool;

static float *new_rows(int width)
{
    return exercise_floats((POOL + 1) * BLOCK * width) + BLOCK * width;
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

static pool new_pool(uint64_t seed)
{
    inputs_rng rng = {seed};
    pool p = {new_rows(WIDTH), new_rows(WIDTH), new_rows(INDEX_WIDTH),
              .keys = touched_new(1, POOL * BLOCK, "", "")};
    p.values = p.index_keys = p.keys;
    p.values.count = touched_new(1, POOL * BLOCK, "", "").count;
    p.index_keys.count = touched_new(1, POOL * BLOCK, "", "").count;
    lay_out(&p, &rng);
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

/* One sequence; returns the bytes that it needs. */
static uint64_t judge(pool *p, int s, inputs_pattern pattern, touched *pages)
{
    const msa_shape shape = {1, p->length[s], 1, 1, WIDTH, INDEX_WIDTH, BLOCK, TOPK, 1, NULL, NULL, NULL, NULL};
    const inputs in = exercise_inputs(&shape, pattern);
    const cache c = {{p->k, 1, WIDTH, &p->keys},
                     {p->v, 1, WIDTH, &p->values},
                     {p->ki, 1, INDEX_WIDTH, &p->index_keys},
                     p->page[s],
                     p->length[s],
                     BLOCK};
    float *expected = exercise_floats(WIDTH), *found = exercise_floats(WIDTH);
    int32_t ids[TOPK];
    char what[80];
    fill(p, s, &in);
    msa_decode(&shape, NULL, in.q, in.k, in.v, in.qi, in.ki, ids, expected, NULL,
               exercise_alloc((int64_t)msa_workspace(NULL, &shape)));
    memset(p->keys.count, 0, POOL * BLOCK * sizeof *p->keys.count);
    decode(in.q, in.qi, &c, TOPK, found);
    for (int64_t a = 0; a < POOL * BLOCK; a++)
        pages->count[s * POOL + a / BLOCK] += p->keys.count[a];
    snprintf(what, sizeof what, "sequence %d (length %lld, %s inputs), o", s, (long long)p->length[s],
             inputs_pattern_name(pattern));
    exercise_tensor(what, (verdict_dims){1, 1, WIDTH}, expected, found,
                    verdict_float32(&shape, &in, VERDICT_O, 1));
    return 4 * (uint64_t)(INDEX_WIDTH * p->length[s] + 2 * WIDTH * support(ids, p->length[s]));
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    touched pages = touched_new(SEQUENCES, POOL, "sequence", "page of the pool: rows of K read");
    touched unseen = touched_new(SEQUENCES, POOL, "", "");
    uint64_t bar = 0, bytes = 0;
    for (int a = 0; a < 2; a++) {
        pool p = new_pool(exercise_seed() + (uint64_t)a);
        for (int s = 0; s < SEQUENCES; s++)
            bar += judge(&p, s, a == 0 ? INPUTS_DISTINCT : INPUTS_TIES, a == 0 ? &pages : &unseen);
        bytes += bytes_read(&p);
    }
    exercise_bar("bytes of the cache read", bytes, bar);
    return exercise_end(&pages);
}
