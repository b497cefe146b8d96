/* Right, and simple: the pages are put together first, so that everything else may forget that they exist. */
#include "task.h"

/* The whole sequence in one piece. */
static tensor gather(const cache *c, const tensor *pool)
{
    float *copy = malloc((size_t)(c->length * pool->width) * sizeof *copy);
    for (int64_t j = 0; j < c->length; j++)
        memcpy(copy + j * pool->width, row(pool, c->page[j / c->block] * (int64_t)c->block + j % c->block, 0),
               (size_t)pool->width * sizeof *copy);
    return (tensor){copy, 1, pool->width, NULL};
}

static double block_score(const float *qi, const tensor *ki, int64_t begin, int64_t end)
{
    double best = -INFINITY;
    for (int64_t j = begin; j < end; j++)
        best = fmax(best, dot_product(qi, row(ki, j, 0), ki->width));
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
    const tensor k = gather(c, &c->k), v = gather(c, &c->v), ki = gather(c, &c->ki);
    const int64_t local = (c->length - 1) / c->block;
    double max = -INFINITY, sum = 0, *acc = calloc((size_t)v.width, sizeof *acc);
    double *score = malloc((size_t)(local + 1) * sizeof *score);
    for (int64_t b = 0; b < local; b++)
        score[b] = block_score(qi, &ki, b * c->block, (b + 1) * c->block);
    for (int64_t b = 0; b <= local; b++) {
        if (b < local && rank(score, local, b) >= topk - 1)
            continue;
        for (int64_t j = b * c->block; j < (b + 1) * c->block && j < c->length; j++) {
            const double x = dot_product(q, row(&k, j, 0), k.width) / sqrt(k.width);
            const double next = fmax(max, x), keep = exp(max - next), p = exp(x - next);
            const float *value = row(&v, j, 0);
            sum = sum * keep + p;
            for (int a = 0; a < v.width; a++)
                acc[a] = acc[a] * keep + p * (double)value[a];
            max = next;
        }
    }
    for (int a = 0; a < v.width; a++)
        o[a] = (float)(acc[a] / sum);
    free((void *)k.data);
    free((void *)v.data);
    free((void *)ki.data);
    free(acc);
    free(score);
}
