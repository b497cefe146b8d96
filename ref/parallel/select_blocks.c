/* Which blocks the queries of all homes choose: steps 1, 3 and 4 of pass_q.c. */
#include <stdlib.h>

#include "pass_q.h"

void by_home(const step *p, transport_part *part, void *base, size_t width)
{
    const int64_t *first = p->c->rows->first;
    for (int r = 0; r < p->t->ranks; r++)
        part[r] = (transport_part){(char *)base + (size_t)first[r] * width,
                                   (size_t)(first[r + 1] - first[r]) * width};
}

static bool share_rows(const step *p, traffic_kind kind, const void *own, void *all, size_t width)
{
    by_home(p, p->from, all, width);
    return transport_gather(p->t, kind, (transport_part){(void *)(uintptr_t)own, (size_t)p->own * width},
                            p->from);
}

/* The winners of one row and group, from the candidates [R][rows at home,Hkv,k-1] of all ranks. Those of a rank ascend;
 * brought into one ascending line the tie rule of top_blocks() is that of one process. */
static void choose(const step *p, int64_t row, const double *score, const int32_t *candidate, double *m,
                   double *best, int32_t *line, int32_t *ids)
{
    const msa_shape *s = p->s;
    const int ranks = p->t->ranks, others = s->topk - 1;
    const int64_t local = p->c->rows->at[p->first + row / s->n_kv_heads] / s->block,
                  stride = p->own * s->n_kv_heads * others, kept = min_i64(others, local);
    int64_t n = 0;
    for (int rank = 0; rank < ranks; rank++)
        for (int64_t i = rank * stride + row * others;
             i < rank * stride + (row + 1) * others && candidate[i] >= 0; i++) {
            int64_t at = n++;
            for (; at > 0 && line[at - 1] > candidate[i]; at--)
                line[at] = line[at - 1], m[at] = m[at - 1];
            line[at] = candidate[i];
            m[at] = score[i];
        }
    top_blocks(m, n, kept, best, ids);
    for (int64_t i = 0; i < kept; i++)
        ids[i] = line[ids[i]];
    ids[kept] = (int32_t)local;
    for (int64_t i = kept + 1; i < s->topk; i++)
        ids[i] = -1;
}

static msa_status choose_all(const step *p, const double *score, const int32_t *candidate)
{
    const msa_shape *s = p->s;
    const size_t most = (size_t)p->t->ranks * (size_t)s->topk;
    double *m = malloc(2 * most * sizeof *m);
    int32_t *line = malloc(most * sizeof *line);
    for (int64_t row = 0; m && line && row < p->own * s->n_kv_heads; row++)
        choose(p, row, score, candidate, m, m + most, line, p->c->ids + row * s->topk);
    const bool ok = m && line;
    free(m), free(line);
    return ok ? MSA_OK : MSA_ERR_DEVICE;
}

/* Candidates go home: [R][rows at home,Hkv,k-1]. */
static msa_status win(const step *p)
{
    const size_t width = (size_t)p->s->n_kv_heads * (size_t)(p->s->topk - 1), n = (size_t)p->own * width;
    const size_t ranks = (size_t)p->t->ranks;
    double *score = malloc((ranks * n + 1) * sizeof *score);
    int32_t *candidate = malloc((ranks * n + 1) * sizeof *candidate);
    msa_status status = score && candidate ? MSA_OK : MSA_ERR_DEVICE;
    const struct {
        void *mine, *all;
        size_t bytes;
    } half[] = {{p->score, score, sizeof *score}, {p->candidate, candidate, sizeof *candidate}};
    for (int h = 0; h < 2 && status == MSA_OK; h++) {
        by_home(p, p->to, half[h].mine, width * half[h].bytes);
        for (size_t r = 0; r < ranks; r++)
            p->from[r] = (transport_part){(char *)half[h].all + r * n * half[h].bytes, n * half[h].bytes};
        if (n)
            memcpy(p->from[p->t->rank].data, p->to[p->t->rank].data, n * half[h].bytes);
        if (!transport_exchange(p->t, TRAFFIC_CANDIDATES, p->to, p->from))
            status = MSA_ERR_DEVICE;
    }
    if (status == MSA_OK)
        status = choose_all(p, score, candidate);
    free(score), free(candidate);
    return status;
}

msa_status select_blocks(step *p)
{
    const msa_shape *s = p->s;
    const size_t rows = (size_t)p->rows + 1, heads = (size_t)s->n_kv_heads, others = (size_t)s->topk - 1;
    p->qi = malloc(rows * heads * (size_t)s->d_index * sizeof *p->qi);
    p->score = malloc(rows * (heads * others + 1) * sizeof *p->score);
    p->candidate = malloc(rows * (heads * others + 1) * sizeof *p->candidate);
    p->ids = malloc(rows * heads * (size_t)s->topk * sizeof *p->ids);
    msa_status status = p->qi && p->score && p->candidate && p->ids ? MSA_OK : MSA_ERR_DEVICE;
    if (status == MSA_OK &&
        !share_rows(p, TRAFFIC_INDEX_QUERIES, p->c->qi, p->qi, heads * (size_t)s->d_index * sizeof *p->qi))
        status = MSA_ERR_DEVICE;
    if (status == MSA_OK)
        status = find_candidates(p);
    if (status == MSA_OK)
        status = win(p);
    if (status == MSA_OK &&
        !share_rows(p, TRAFFIC_WINNERS, p->c->ids, p->ids, heads * (size_t)s->topk * sizeof *p->ids))
        status = MSA_ERR_DEVICE;
    return status;
}
