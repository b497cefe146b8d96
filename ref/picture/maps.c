/* The maps of one layer, computed from its captured tensors. */
#include <stdlib.h>

#include "../internal.h"
#include "maps.h"

bool maps_new(maps *m, const msa_shape *s, bool with_mass)
{
    const size_t rows = (size_t)s->n_kv_heads * (size_t)s->n_q, blocks = (size_t)msa_n_blocks(s);
    *m = (maps){.shape = *s, .n_blocks = (int64_t)blocks};
    m->scores = malloc(rows * blocks * sizeof *m->scores);
    m->share = malloc(rows * blocks * sizeof *m->share);
    m->ids = malloc(rows * (size_t)s->topk * sizeof *m->ids);
    m->fate = malloc(rows * blocks * sizeof *m->fate);
    m->mass = with_mass ? malloc(rows * blocks * sizeof *m->mass) : NULL;
    m->recall = with_mass ? malloc(2 * rows * sizeof *m->recall) : NULL;
    bool ok = m->scores && m->share && m->ids && m->fate && (!with_mass || (m->mass && m->recall));
    if (!ok)
        maps_free(m);
    return ok;
}

void maps_free(maps *m)
{
    free(m->scores);
    free(m->share);
    free(m->ids);
    free(m->fate);
    free(m->mass);
    free(m->recall);
    *m = (maps){0};
}

int64_t maps_local(const msa_shape *s, int64_t i)
{
    return (s->n_kv - s->n_q + i) / s->block;
}

size_t maps_row(const maps *m, int group, int64_t i)
{
    return (size_t)((group * m->shape.n_q + i) * m->n_blocks);
}

/* share = softmax of the scores m[0..local]; hidden blocks get 0. */
static void share_row(const float *scores, int64_t local, int64_t blocks, float *share)
{
    double most = -INFINITY, sum = 0;
    for (int64_t b = 0; b <= local; b++)
        most = fmax(most, (double)scores[b]);
    for (int64_t b = 0; b <= local; b++)
        sum += exp((double)scores[b] - most);
    for (int64_t b = 0; b < blocks; b++)
        share[b] = b <= local ? (float)(exp((double)scores[b] - most) / sum) : 0;
}

static void fate_row(const int32_t *ids, const int32_t *ideal, int64_t n, int64_t local, int64_t blocks,
                     int32_t *fate)
{
    for (int64_t b = 0; b < blocks; b++)
        fate[b] = b <= local ? MAPS_NEITHER : MAPS_HIDDEN;
    for (int64_t i = 0; i < n; i++)
        fate[ids[i]] |= MAPS_CHOSEN;
    for (int64_t i = 0; ideal && i < n; i++)
        fate[ideal[i]] |= MAPS_IDEAL;
}

/* Shares and fates of one group, once scores, ids and mass are there; work as for msa_recall(). */
static void derive_rows(maps *m, int group, void *work)
{
    const msa_shape *s = &m->shape;
    const int64_t kept = min_i64(s->topk, m->n_blocks);
    arena a = arena_over(work);
    double *mass = arena_take(&a, m->n_blocks, sizeof *mass);
    double *best = arena_take(&a, kept, sizeof *best);
    int32_t *ideal = arena_take(&a, kept, sizeof *ideal);
    for (int64_t i = 0; i < s->n_q; i++) {
        const size_t row = maps_row(m, group, i);
        const int64_t local = maps_local(s, i), n = min_i64(s->topk, local + 1);
        share_row(m->scores + row, local, m->n_blocks, m->share + row);
        if (m->mass) {
            for (int64_t b = 0; b <= local; b++)
                mass[b] = (double)m->mass[row + (size_t)b];
            top_blocks(mass, local + 1, n, best, ideal);
        }
        fate_row(ids_row(s, m->ids, group, i), m->mass ? ideal : NULL, n, local, m->n_blocks, m->fate + row);
    }
}

msa_status maps_compute(maps *m, const msa_ops *ops, const float *q, const float *k, const float *qi,
                        const float *ki, void *work)
{
    const msa_shape *s = &m->shape;
    MSA_TRY(ops->stage[MSA_STAGE_INDEX]->run(
        s, &(msa_arrays){.qi = qi, .ki = ki, .scores = m->scores, .ids = m->ids}, work));
    if (m->mass) {
        msa_recall_result mean;
        MSA_TRY(msa_block_mass(s, q, k, m->mass, work));
        MSA_TRY(msa_recall(s, q, k, m->ids, m->recall, &mean, work));
    }
    for (int r = 0; r < s->n_kv_heads; r++)
        derive_rows(m, r, work);
    return MSA_OK;
}

int64_t maps_recall(const maps *m, int group, double *block_recall, double *score_recall)
{
    const msa_shape *s = &m->shape;
    const float *block = m->recall + group * s->n_q, *score = block + s->n_kv_heads * s->n_q;
    int64_t rows = 0;
    *block_recall = *score_recall = 0;
    for (int64_t i = 0; i < s->n_q; i++)
        if (maps_local(s, i) >= s->topk) {
            rows++;
            *block_recall += (double)block[i];
            *score_recall += (double)score[i];
        }
    *block_recall /= (double)rows;
    *score_recall /= (double)rows;
    return rows;
}

int64_t maps_query_blocks(const msa_shape *s)
{
    return msa_n_blocks(s) - maps_local(s, 0);
}

void maps_frequency(const maps *m, float *frequency)
{
    const msa_shape *s = &m->shape;
    const int64_t first = maps_local(s, 0), query_blocks = maps_query_blocks(s);
    for (int r = 0; r < s->n_kv_heads; r++)
        for (int64_t c = 0; c < query_blocks; c++) {
            float *row = frequency + (r * query_blocks + c) * m->n_blocks;
            int64_t from = max_i64(0, (first + c) * s->block - (s->n_kv - s->n_q));
            int64_t to = min_i64(s->n_q, (first + c + 1) * s->block - (s->n_kv - s->n_q));
            for (int64_t b = 0; b < m->n_blocks; b++)
                row[b] = b <= first + c ? 0 : -1;
            for (int64_t i = from; i < to; i++)
                for (int64_t b = 0; b <= first + c; b++)
                    row[b] +=
                        m->fate[maps_row(m, r, i) + (size_t)b] & MAPS_CHOSEN ? 1.0F / (float)(to - from) : 0;
        }
}

double maps_level(double share, int decades)
{
    double level = 1 - log10(share) / decades;
    return !(share > 0) || !(level > 0) ? 0 : fmin(level, 1);
}

int maps_decades(int64_t n_blocks)
{
    return -1 - (int)ceil(log10((double)n_blocks));
}
