/* Q-outer, and right: every query fetches its blocks, whoever else has fetched them before. */
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

void attend_all(const task *t, float *o, float *lse)
{
    const int width = t->k.width;
    double *acc = malloc((size_t)width * sizeof *acc);
    for (int64_t i = 0; i < t->n; i++) {
        const float *q = fetch_query(t, i);
        state s = {-INFINITY, 0, memset(acc, 0, (size_t)width * sizeof *acc)};
        for (int a = 0; a < t->topk && t->ids[i * t->topk + a] >= 0; a++) {
            const int64_t begin = (int64_t)t->ids[i * t->topk + a] * t->block;
            for (int64_t j = begin; j < begin + t->block && j <= i; j++)
                add_key(&s, dot_product(q, row(&t->k, j, 0), width) / sqrt(width), row(&t->v, j, 0), width);
        }
        for (int c = 0; c < width; c++)
            o[i * width + c] = (float)(s.acc[c] / s.sum);
        lse[i] = (float)(s.max + log(s.sum));
    }
    free(acc);
}
