/* What a kernel that is timed is given: drawn, or left by the forward pass. */
#include "subject_inputs.h"

#include <stdlib.h>
#include <string.h>

#include "../internal.h"
#include "../table/table.h"

#define PIECE 4096 /* numbers drawn from one seed */

static void draw_normal(float *x, int64_t n, uint64_t seed, bool round)
{
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < n; first += PIECE) {
        inputs_rng rng = {seed ^ (uint64_t)first};
        rng.state = inputs_u64(&rng);
        for (int64_t i = first; i < min_i64(n, first + PIECE); i++) {
            const float drawn = inputs_normal(&rng);
            x[i] = round ? msa_bf16(drawn) : drawn;
        }
    }
}

/* As an index would leave them: -inf where a block holds no visible key. */
static void draw_scores(const subject *t, float *scores)
{
    const msa_shape *s = t->s;
    const int64_t n_blocks = msa_n_blocks(s);
    draw_normal(scores, array_count(t->s, NULL, ARRAY_SCORES), t->seed, false);
    for (int r = 0; r < s->n_kv_heads; r++)
        for (int n = 0; n < msa_n_seqs(s); n++) {
            const msa_seq seq = msa_get_seq(s, n);
            for (int64_t i = 0; i < seq.n_q; i++)
                for (int64_t b = position(&seq, i) / s->block + 1; b < n_blocks; b++)
                    scores[(r * s->n_q + seq.q0 + i) * n_blocks + b] = -INFINITY;
        }
}

/* The index's log-sum-exps, query by query on all cores. */
static msa_status index_lses(subject *t)
{
    const msa_shape *s = t->s;
    const int64_t width = (int64_t)s->n_kv_heads * s->d_index;
    float *to = t->given[ARRAY_INDEX_LSE];
    bool ok = true;
#pragma omp parallel for schedule(dynamic, 16)
    for (int64_t i = 0; i < s->n_q; i++) {
        msa_seq seq;
        const msa_shape own = query_shape(s, i, &seq);
        int32_t *ids = malloc((size_t)(s->n_kv_heads * s->topk) * sizeof *ids);
        float *lse = malloc((size_t)s->n_kv_heads * sizeof *lse);
        for (int r = 0; ids && r < s->n_kv_heads; r++)
            memcpy(ids + r * s->topk, ids_row(s, t->given[ARRAY_IDS], r, i), (size_t)s->topk * sizeof *ids);
        if (!ids || !lse ||
            msa_index_lse(&own, (float *)t->given[ARRAY_QI] + i * width,
                          (float *)t->given[ARRAY_KI] + seq.kv0 * s->d_index, ids, lse) != MSA_OK)
            ok = false;
        for (int r = 0; lse && r < s->n_kv_heads; r++)
            to[r * s->n_q + i] = lse[r];
        free(ids);
        free(lse);
    }
    return ok ? MSA_OK : MSA_ERR_SIZE;
}

/* Dense attention in float32: the fast path's or, as that would take minutes where a device is used, its. */
static const msa_kernel *dense_forward(const subject *t)
{
    const msa_kernel *best = msa_fast_ops.stage[MSA_STAGE_DENSE], *k;
    for (int i = 0; t->device && (k = table_at(i)) != NULL; i++)
        if (k->stage == MSA_STAGE_DENSE && strcmp(k->backend, t->kernel->backend) == 0 &&
            k->precision <= MSA_BF16_INPUTS)
            best = k;
    return best;
}

/* What the forward pass leaves for the gradients. */
static msa_status run_forward(subject *t)
{
    const msa_shape *s = t->s;
    float *o = t->given[ARRAY_O], *own = NULL;
    const float *q = t->given[ARRAY_Q], *k = t->given[ARRAY_K];
    const float *v = t->given[ARRAY_V] ? t->given[ARRAY_V] : k; /* KL needs no O: any values will do */
    void *work = malloc(msa_workspace(&msa_fast_ops, s) + 1);
    if (!o)
        o = own = malloc((size_t)array_count(t->s, NULL, ARRAY_O) * sizeof *o);
    msa_status status = MSA_ERR_SIZE;
    if (work && o && t->given[ARRAY_IDS])
        status = msa_fast_ops.stage[MSA_STAGE_SPARSE]->run(
            s,
            &(msa_arrays){
                .q = q, .k = k, .v = v, .ids = t->given[ARRAY_IDS], .o = o, .lse = t->given[ARRAY_LSE]},
            work);
    else if (work && o)
        status = dense_forward(t)->run(
            s, &(msa_arrays){.q = q, .k = k, .v = v, .o = o, .lse = t->given[ARRAY_LSE]}, work);
    if (status == MSA_OK && t->given[ARRAY_INDEX_LSE])
        status = index_lses(t);
    free(own);
    free(work);
    return status;
}

msa_status subject_each_block(subject *t, array_id a, visit_block *visit, void *to)
{
    const msa_shape *s = t->s;
    const int64_t width = array_count(t->s, NULL, a) / s->n_kv, max_pages = msa_n_blocks(&t->g.s);
    msa_status status = MSA_OK;
    for (int r = 0; r < msa_n_seqs(s); r++) {
        const msa_seq seq = msa_get_seq(s, r);
        for (int64_t j = 0; j < seq.n_kv && status == MSA_OK; j += s->block)
            status = visit(t, t->g.table[r * max_pages + j / s->block],
                           (float *)t->given[a] + (seq.kv0 + j) * width,
                           min_i64(s->block, seq.n_kv - j) * width, to);
    }
    return status;
}

/* Index keys become what 8 bits keep of them: encoded once more, they stay so. */
static msa_status coarsen(subject *t, int64_t page, float *x, int64_t n, void *bits)
{
    float scale;
    msa_e4m3_block(x, n, bits, &scale);
    for (int64_t c = 0; c < n; c++)
        x[c] = msa_e4m3(((uint8_t *)bits)[c]) * scale;
    (void)t, (void)page;
    return MSA_OK;
}

static msa_status make_small(subject *t)
{
    uint8_t *bits = malloc((size_t)(t->s->block * t->s->d_index));
    const msa_status status = bits ? subject_each_block(t, ARRAY_KI, coarsen, bits) : MSA_ERR_SIZE;
    free(bits);
    return status;
}

/* Not what an index or a forward pass leaves. */
static bool is_drawn(array_id a)
{
    return array_element(a) != ELEMENT_INTEGER && a != ARRAY_SCORES && a != ARRAY_O && a != ARRAY_LSE &&
           a != ARRAY_INDEX_LSE;
}

msa_status subject_draw(subject *t)
{
    for (int i = 0; i < ARRAY_N; i++)
        if (HAS(t->in, i)) {
            t->given[i] = malloc((size_t)array_count(t->s, NULL, (array_id)i) * 4);
            if (!t->given[i])
                return MSA_ERR_SIZE;
        }
    for (int i = 0; i < ARRAY_N; i++)
        if (HAS(t->in, i) && is_drawn((array_id)i))
            draw_normal(t->given[i], array_count(t->s, NULL, (array_id)i), t->seed * ARRAY_N + (uint64_t)i,
                        t->kernel->precision >= MSA_BF16_INPUTS ||
                            (!t->device && subject_is_bf16(t, (array_id)i)));
    if (t->given[ARRAY_SCORES])
        draw_scores(t, t->given[ARRAY_SCORES]);
    if (t->small && make_small(t) != MSA_OK)
        return MSA_ERR_SIZE;
    if (t->given[ARRAY_IDS])
        selection_draw(t->s, t->kind, t->seed, t->given[ARRAY_IDS]);
    return t->given[ARRAY_O] || t->given[ARRAY_LSE] || t->given[ARRAY_INDEX_LSE] ? run_forward(t) : MSA_OK;
}
