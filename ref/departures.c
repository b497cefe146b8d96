/* What the paper tried and left out of a layer: a sink logit, a value head.
 *
 * A sink s beside the logits leaves the keys of a head the part g = 1/(1 + exp(s - LSE)) of their weights:
 *   O' = g O     dO = g dO'     dL/dLSE = g (1-g) dO'.O = -dL/ds
 * and since dLSE/dQ = sum_j P_j K_j / sqrt(dh), the way back through the LSE is an attention with K for V. */
#include "internal.h"
#include "stages.h"

/* The value head's attention: the index query heads over the one index key head. */
static msa_shape index_attention(const msa_shape *s)
{
    msa_shape index = *s;
    index.n_heads = s->n_kv_heads;
    index.n_kv_heads = 1;
    index.d_head = s->d_index;
    return index;
}

typedef struct lse_scratch {
    float *mean_key, *query; /* [T,Hq,dh] sum_j P_j K_j; slope Q */
    float *unused, *keys;    /* [S,Hkv,dh] */
    void *stage;
} lse_scratch;

static size_t place_lse(lse_scratch *l, const msa_ops *ops, const msa_shape *s, void *work)
{
    const int64_t n_q = s->n_q * s->n_heads * s->d_head, n_k = s->n_kv * s->n_kv_heads * s->d_head;
    arena a = arena_over(work);
    l->mean_key = arena_take(&a, n_q, sizeof *l->mean_key);
    l->query = arena_take(&a, n_q, sizeof *l->query);
    l->unused = arena_take(&a, n_k, sizeof *l->unused);
    l->keys = arena_take(&a, n_k, sizeof *l->keys);
    l->stage = arena_take(&a, 1, msa_workspace(ops, s));
    return arena_bytes(&a);
}

size_t lse_backward_workspace(const msa_ops *ops, const msa_shape *s)
{
    lse_scratch l;
    return place_lse(&l, ops, s, NULL);
}

typedef struct value_scratch {
    float *doi, *query, *key, *dvi;
    void *stage;
} value_scratch;

static size_t place_value_head(value_scratch *v, const msa_ops *ops, const msa_shape *s, void *work)
{
    const msa_shape index = index_attention(s);
    const int64_t n_q = s->n_q * s->n_kv_heads * s->d_index, n_k = s->n_kv * s->d_index;
    arena a = arena_over(work);
    v->doi = arena_take(&a, n_q, sizeof *v->doi);
    v->query = arena_take(&a, n_q, sizeof *v->query);
    v->key = arena_take(&a, n_k, sizeof *v->key);
    v->dvi = arena_take(&a, n_k, sizeof *v->dvi);
    v->stage = arena_take(&a, 1, msa_workspace(ops, &index));
    return arena_bytes(&a);
}

size_t value_head_workspace(const msa_ops *ops, const msa_shape *s)
{
    value_scratch v;
    return place_value_head(&v, ops, s, NULL);
}

static double sink_keeps(const msa_shape *s, const float *sink, const float *lse, int64_t row)
{
    return 1 / (1 + exp((double)sink[row % s->n_heads] - (double)lse[row]));
}

/* out = g O, all rows [T,Hq]. */
void sink_forward(const msa_shape *s, const float *sink, const float *lse, const float *o, float *out)
{
    for (int64_t row = 0; row < s->n_q * s->n_heads; row++) {
        float keeps = (float)sink_keeps(s, sink, lse, row);
        for (int c = 0; c < s->d_head; c++)
            out[row * s->d_head + c] = keeps * o[row * s->d_head + c];
    }
}

static msa_status attend(const msa_ops *ops, const msa_shape *s, const float *q, const float *k,
                         const float *v, const int32_t *ids, float *o, float *lse, void *work)
{
    return ids ? ops->stage[MSA_STAGE_SPARSE]->run(
                     s, &(msa_arrays){.q = q, .k = k, .v = v, .ids = ids, .o = o, .lse = lse}, work)
               : ops->stage[MSA_STAGE_DENSE]->run(
                     s, &(msa_arrays){.q = q, .k = k, .v = v, .o = o, .lse = lse}, work);
}

/* What reaches Q and K through the LSE, added to dq and dk; slope [T,Hq] is dL/dLSE / sqrt(dh). */
msa_status lse_backward(const msa_ops *ops, const msa_shape *s, const msa_layer_state *st, const int32_t *ids,
                        const float *slope, float *dq, float *dk, void *work)
{
    const int64_t n_k = s->n_kv * s->n_kv_heads * s->d_head;
    const int d = s->d_head;
    lse_scratch l;
    place_lse(&l, ops, s, work);
    float *mean_key = l.mean_key, *query = l.query, *keys = l.keys;
    MSA_TRY(attend(ops, s, st->q, st->k, st->k, ids, mean_key, NULL, l.stage));
    for (int r = 0; r < n_runs(s); r++) {
        const msa_seq run = get_run(s, r);
        const int64_t wide = (int64_t)s->n_heads * d;
        for (int64_t i = run.q0 * wide; i < (run.q0 + run.n_q) * wide; i++) {
            dq[i] += slope[i / d] * mean_key[i];
            query[i] = slope[i / d] * st->q[i];
        }
    }
    MSA_TRY(ops->stage[MSA_STAGE_BACKWARD]->run(s,
                                                &(msa_arrays){.q = st->q,
                                                              .k = st->k,
                                                              .v = st->k,
                                                              .ids = ids,
                                                              .dout = query,
                                                              .dq = mean_key,
                                                              .dk = l.unused,
                                                              .dv = keys},
                                                l.stage));
    for (int64_t i = 0; i < n_k; i++)
        dk[i] += keys[i];
    return MSA_OK;
}

/* d_o: from the gradient of O' to that of O. Fills slope for lse_backward() and adds to dsink. */
void sink_backward(const msa_shape *s, const float *sink, const msa_layer_state *st, float *d_o, float *slope,
                   float *dsink)
{
    const int d = s->d_head;
    for (int r = 0; r < n_runs(s); r++) {
        const msa_seq run = get_run(s, r);
        for (int64_t row = run.q0 * s->n_heads; row < (run.q0 + run.n_q) * s->n_heads; row++) {
            const double keeps = sink_keeps(s, sink, st->lse, row);
            const double by_lse = keeps * (1 - keeps) * dot(d_o + row * d, st->o + row * d, d);
            dsink[row % s->n_heads] -= (float)by_lse;
            slope[row] = (float)(by_lse / sqrt(d));
            for (int c = 0; c < d; c++)
                d_o[row * d + c] *= (float)keeps;
        }
    }
}

/* y += softmax(Qi Ki^T / sqrt(di)) Vi Wio over all visible keys, Vi = sg(X) Wiv. */
msa_status value_head_forward(const msa_ops *ops, const msa_shape *s, const msa_layer_config *c,
                              const msa_layer_weights *w, const float *x, msa_layer_state *st, float *y,
                              void *work)
{
    const msa_shape index = index_attention(s);
    const int64_t m = c->d_model, di = s->d_index;
    for (int b = 0; b < msa_n_seqs(s); b++) {
        msa_seq seq = msa_get_seq(s, b);
        ops->gemm(false, false, seq.n_q, di, m, x + seq.q0 * m, w->wiv, 0,
                  st->vi + (seq.kv0 + position(&seq, 0)) * di);
    }
    MSA_TRY(ops->stage[MSA_STAGE_DENSE]->run(
        &index, &(msa_arrays){.q = st->qi, .k = st->ki, .v = st->vi, .o = st->oi}, work));
    ops->gemm(false, false, s->n_q, m, s->n_kv_heads * di, st->oi, w->wio, 1, y);
    return MSA_OK;
}

/* Its gradients, added to dqi, dki and the weights'; the value head reads sg(X), so dX is left alone. */
msa_status value_head_backward(const msa_ops *ops, const msa_shape *s, const msa_layer_config *c,
                               const msa_layer_weights *w, const float *x, const msa_layer_state *st,
                               const float *dy, const msa_arrays *a, const msa_layer_weights *dw, void *work)
{
    float *dqi = array_get(a, ARRAY_DQI), *dki = array_get(a, ARRAY_DKI);
    const msa_shape index = index_attention(s);
    const int64_t T = s->n_q, m = c->d_model, di = s->d_index, iq = s->n_kv_heads * di;
    value_scratch v;
    place_value_head(&v, ops, s, work);
    add_weight_gradient(ops, s, iq, st->oi, m, dy, dw->wio);
    ops->gemm(false, true, T, iq, m, dy, w->wio, 0, v.doi);
    MSA_TRY(ops->stage[MSA_STAGE_BACKWARD]->run(
        &index,
        &(msa_arrays){
            .q = st->qi, .k = st->ki, .v = st->vi, .dout = v.doi, .dq = v.query, .dk = v.key, .dv = v.dvi},
        v.stage));
    add_weight_gradient(ops, s, m, x, di, v.dvi, dw->wiv);
    for (int64_t i = 0; i < T * iq; i++)
        dqi[i] += v.query[i];
    for (int64_t i = 0; i < T * di; i++)
        dki[i] += v.key[i];
    return MSA_OK;
}
