/* The mass is that of the full softmax, and both measures are shares of the best blocks I*. */
#include "task.h"

static bool is_chosen(const selection *s, int64_t b)
{
    for (int a = 0; a < s->topk && s->ids[a] >= 0; a++)
        if (s->ids[a] == b)
            return true;
    return false;
}

/* mass[b] += this head's softmax, summed over block b, a group-th of it */
static void add_mass(const float *q, int group, const tensor *k, int64_t visible, int block, double *mass)
{
    double max = -INFINITY, sum = 0, *p = malloc((size_t)visible * sizeof *p);
    for (int64_t j = 0; j < visible; j++) {
        p[j] = dot_product(q, row(k, j, 0), k->width) / sqrt(k->width);
        max = fmax(max, p[j]);
    }
    for (int64_t j = 0; j < visible; j++)
        sum += p[j] = exp(p[j] - max);
    for (int64_t j = 0; j < visible; j++)
        mass[j / block] += p[j] / sum / group;
    free(p);
}

/* How many blocks have more mass than b, or as much and a lower id. */
static int64_t rank(const double *mass, int64_t blocks, int64_t b)
{
    int64_t better = 0;
    for (int64_t other = 0; other < blocks; other++)
        better += mass[other] > mass[b] || (mass[other] == mass[b] && other < b);
    return better;
}

recalls recall(const float *q, int group, const tensor *k, int64_t visible, const selection *s)
{
    const int64_t blocks = (visible + s->block - 1) / s->block;
    double *mass = calloc((size_t)blocks, sizeof *mass), hits = 0, hit_mass = 0, best_mass = 0;
    for (int h = 0; h < group; h++)
        add_mass(q + h * k->width, group, k, visible, s->block, mass);
    for (int64_t b = 0; b < blocks; b++) {
        if (rank(mass, blocks, b) >= s->topk)
            continue;
        best_mass += mass[b];
        hits += is_chosen(s, b);
        hit_mass += is_chosen(s, b) ? mass[b] : 0;
    }
    free(mass);
    return (recalls){hits / s->topk, hit_mass / best_mass};
}
