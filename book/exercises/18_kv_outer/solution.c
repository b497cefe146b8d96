/* KV-outer: a block is fetched once and serves all who chose it; what they have gathered waits in memory. */
#include "task.h"

/* Attention so far, of one query: online softmax. */
typedef struct state {
    double max, sum, *acc;
} state;

static void add_key(state *s, double x, const float *value, int width)
{
    const double next = fmax(s->max, x), keep = exp(s->max - next), p = exp(x - next);
    s->sum = s->sum * keep + p;
    for (int c = 0; c < width; c++)
        s->acc[c] = s->acc[c] * keep + p * (double)value[c];
    s->max = next;
}

/* All queries that chose block b, with its keys held at hand. */
static void attend_block(const task *t, int64_t b, const float **key, const float **value, state *s)
{
    const int64_t begin = b * t->block, end = begin + t->block < t->n ? begin + t->block : t->n;
    for (int64_t j = begin; j < end; j++) {
        key[j - begin] = row(&t->k, j, 0);
        value[j - begin] = row(&t->v, j, 0);
    }
    for (int32_t a = t->first[b]; a < t->first[b + 1]; a++) {
        const int64_t i = t->query[a];
        const float *q = fetch_query(t, i);
        for (int64_t j = begin; j < end && j <= i; j++)
            add_key(s + i, dot_product(q, key[j - begin], t->k.width) / sqrt(t->k.width), value[j - begin],
                    t->k.width);
    }
}

void attend_all(const task *t, float *o, float *lse)
{
    const int width = t->k.width;
    double *acc = calloc((size_t)(t->n * width), sizeof *acc);
    state *s = malloc((size_t)t->n * sizeof *s);
    const float **key = malloc((size_t)t->block * sizeof *key);
    const float **value = malloc((size_t)t->block * sizeof *value);
    for (int64_t i = 0; i < t->n; i++)
        s[i] = (state){-INFINITY, 0, acc + i * width};
    for (int64_t b = 0; b < t->n_blocks; b++)
        attend_block(t, b, key, value, s);
    for (int64_t i = 0; i < t->n; i++) {
        for (int c = 0; c < width; c++)
            o[i * width + c] = (float)(s[i].acc[c] / s[i].sum);
        lse[i] = (float)(s[i].max + log(s[i].sum));
    }
    free(acc);
    free(s);
    free(key);
    free(value);
}
