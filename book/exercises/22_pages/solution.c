/* A page is looked up when a token of it is wanted, and K and V are wanted only where a block was chosen. */
#include "task.h"

/* Where token j of the sequence lies in the pool. */
static int64_t place(const cache *c, int64_t j)
{
    return c->page[j / c->block] * (int64_t)c->block + j % c->block;
}

static double block_score(const float *qi, const cache *c, int64_t b)
{
    double best = -INFINITY;
    for (int64_t j = b * c->block; j < (b + 1) * c->block; j++)
        best = fmax(best, dot_product(qi, row(&c->ki, place(c, j), 0), c->ki.width));
    return best;
}

/* How many of the blocks 0 .. n-1 are better than block b. */
static int64_t rank(const double *score, int64_t n, int64_t b)
{
    int64_t better = 0;
    for (int64_t other = 0; other < n; other++)
        better += score[other] > score[b] || (score[other] == score[b] && other < b);
    return better;
}

void decode(const float *q, const float *qi, const cache *c, int topk, float *o)
{
    const int64_t local = (c->length - 1) / c->block;
    const int width = c->k.width;
    double max = -INFINITY, sum = 0, *acc = calloc((size_t)width, sizeof *acc);
    double *score = malloc((size_t)(local + 1) * sizeof *score);
    for (int64_t b = 0; b < local; b++)
        score[b] = block_score(qi, c, b);
    for (int64_t b = 0; b <= local; b++) {
        if (b < local && rank(score, local, b) >= topk - 1)
            continue;
        for (int64_t j = b * c->block; j < (b + 1) * c->block && j < c->length; j++) {
            const double x = dot_product(q, row(&c->k, place(c, j), 0), width) / sqrt(width);
            const double next = fmax(max, x), keep = exp(max - next), p = exp(x - next);
            const float *value = row(&c->v, place(c, j), 0);
            sum = sum * keep + p;
            for (int a = 0; a < width; a++)
                acc[a] = acc[a] * keep + p * (double)value[a];
            max = next;
        }
    }
    for (int a = 0; a < width; a++)
        o[a] = (float)(acc[a] / sum);
    free(acc);
    free(score);
}
