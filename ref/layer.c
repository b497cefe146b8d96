/* One attention layer: projections, norm, rotary, index, Main Branch, output projection; and back.
 *
 *   Q = X Wq   K = X Wk   V = X Wv   Qi = sg(X) Wiq   Ki = sg(X) Wik   then norm and rotary on all but V
 *   Y = Attention(Q, K, V, blocks(Qi, Ki)) Wo
 *
 * sg(X) is visible in the backward pass as two lines that run only where the configuration says `attached`:
 * otherwise no gradient of Wiq or Wik is multiplied back into dX. */
#include "internal.h"

typedef struct widths {
    int64_t q, kv, iq, ik; /* floats a token: Hq dh, Hkv dh, Hkv di, di */
    int index_rot;
} widths;

static msa_status check_layer(const msa_shape *s, const msa_layer_config *c, widths *w)
{
    MSA_TRY(msa_check_shape(s));
    if (c->d_model < 1)
        return MSA_ERR_SIZE;
    *w = (widths){(int64_t)s->n_heads * s->d_head, (int64_t)s->n_kv_heads * s->d_head,
                  (int64_t)s->n_kv_heads * s->d_index, s->d_index,
                  (int)((int64_t)c->rot * s->d_index / s->d_head)};
    if (c->rot < 0 || c->rot > s->d_head || c->rot % 2 != 0 || w->index_rot % 2 != 0)
        return MSA_ERR_ROTARY;
    return MSA_OK;
}

/* The value head's attention: the index query heads over the one index key head. */
static msa_shape index_attention(const msa_shape *s)
{
    msa_shape index = *s;
    index.n_heads = s->n_kv_heads;
    index.n_kv_heads = 1;
    index.d_head = s->d_index;
    return index;
}

size_t msa_layer_workspace(const msa_ops *ops, const msa_shape *s, const msa_layer_config *c)
{
    int64_t q = (int64_t)s->n_heads * s->d_head, kv = (int64_t)s->n_kv_heads * s->d_head,
            iq = (int64_t)s->n_kv_heads * s->d_index;
    size_t stages = msa_workspace(ops, s);
    if (c->sink)
        stages += 2 * work_bytes(s->n_q * q, sizeof(float)) + 2 * work_bytes(s->n_kv * kv, sizeof(float)) +
                  work_bytes(s->n_q * s->n_heads, sizeof(float));
    if (c->value_head) {
        const msa_shape index = index_attention(s);
        stages = (size_t)max_i64((int64_t)stages, (int64_t)msa_workspace(ops, &index)) +
                 2 * work_bytes(s->n_q * iq, sizeof(float)) +
                 2 * work_bytes(s->n_kv * s->d_index, sizeof(float));
    }
    return WORK_ALIGN + 2 * work_bytes(s->n_q * q, sizeof(float)) +
           2 * work_bytes(s->n_kv * kv, sizeof(float)) + work_bytes(s->n_q * iq, sizeof(float)) +
           work_bytes(s->n_kv * s->d_index, sizeof(float)) +
           work_bytes(max_i64(s->d_head, s->d_index), sizeof(double)) + stages;
}

/* Norm and rotary of one projected tensor: raw [T,heads,d] to its rows of out. With `cached`, out is a KV
 * cache whose rows of this call follow each sequence's prefix; else out is [T,heads,d] as well. */
static msa_status norm_rope(const msa_shape *s, const msa_layer_config *c, int heads, int d, int rot,
                            const float *raw, const float *gain, const int32_t *pos, bool cached, float *out)
{
    for (int b = 0; b < msa_n_seqs(s); b++) {
        msa_seq seq = msa_get_seq(s, b);
        int64_t to = cached ? seq.kv0 + position(&seq, 0) : seq.q0;
        float *rows = out + to * heads * d;
        MSA_TRY(msa_rmsnorm(seq.n_q * heads, d, c->eps, raw + seq.q0 * heads * d, gain, rows));
        MSA_TRY(msa_rope(seq.n_q, heads, d, rot, c->theta, pos + seq.q0, false, rows));
    }
    return MSA_OK;
}

/* Its gradient for T = S: from d(out), in place, to d(raw). */
static msa_status norm_rope_backward(const msa_shape *s, const msa_layer_config *c, int heads, int d, int rot,
                                     const float *raw, const float *gain, const int32_t *pos, float *grad,
                                     float *dgain, double *work)
{
    MSA_TRY(msa_rope(s->n_q, heads, d, rot, c->theta, pos, true, grad));
    return msa_rmsnorm_backward(s->n_q * heads, d, c->eps, raw, gain, grad, grad, dgain, work);
}

/* ---- What the paper left out: a sink, a value head -----------------------------------------------------
 *
 * A sink s beside the logits leaves the keys of a head the part g = 1/(1 + exp(s - LSE)) of their weights:
 *   O' = g O     dO = g dO'     dL/dLSE = g (1-g) dO'.O = -dL/ds
 * and since dLSE/dQ = sum_j P_j K_j / sqrt(dh), the way back through the LSE is an attention with K for V. */

static double sink_keeps(const msa_shape *s, const float *sink, const float *lse, int64_t row)
{
    return 1 / (1 + exp((double)sink[row % s->n_heads] - (double)lse[row]));
}

/* out = g O, all rows [T,Hq]. */
static void sink_forward(const msa_shape *s, const float *sink, const float *lse, const float *o, float *out)
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
    return ids ? ops->stage[MSA_STAGE_SPARSE]->sparse(s, q, k, v, ids, o, lse, work)
               : ops->stage[MSA_STAGE_DENSE]->dense(s, q, k, v, o, lse, work);
}

/* What reaches Q and K through the LSE, added to dq and dk; slope [T,Hq] is dL/dLSE / sqrt(dh). */
static msa_status lse_backward(const msa_ops *ops, const msa_shape *s, const msa_layer_state *st,
                               const int32_t *ids, const float *slope, float *dq, float *dk, void *work)
{
    const int64_t rows = s->n_q * s->n_heads, n_k = s->n_kv * s->n_kv_heads * s->d_head;
    const int d = s->d_head;
    float *mean_key = work_take(&work, rows * d, sizeof *mean_key); /* sum_j P_j K_j */
    float *query = work_take(&work, rows * d, sizeof *query);       /* slope Q */
    float *unused = work_take(&work, n_k, sizeof *unused);
    float *keys = work_take(&work, n_k, sizeof *keys);
    MSA_TRY(attend(ops, s, st->q, st->k, st->k, ids, mean_key, NULL, work));
    for (int64_t a = 0; a < rows * d; a++) {
        dq[a] += slope[a / d] * mean_key[a];
        query[a] = slope[a / d] * st->q[a];
    }
    MSA_TRY(ops->stage[MSA_STAGE_BACKWARD]->backward(s, st->q, st->k, st->k, ids, NULL, NULL, query, mean_key,
                                                     unused, keys, work));
    for (int64_t a = 0; a < n_k; a++)
        dk[a] += keys[a];
    return MSA_OK;
}

/* d_o: from the gradient of O' to that of O. Fills slope for lse_backward() and adds to dsink. */
static void sink_backward(const msa_shape *s, const float *sink, const msa_layer_state *st, float *d_o,
                          float *slope, float *dsink)
{
    const int d = s->d_head;
    for (int64_t row = 0; row < s->n_q * s->n_heads; row++) {
        const double keeps = sink_keeps(s, sink, st->lse, row);
        const double by_lse = keeps * (1 - keeps) * dot(d_o + row * d, st->o + row * d, d);
        dsink[row % s->n_heads] -= (float)by_lse;
        slope[row] = (float)(by_lse / sqrt(d));
        for (int c = 0; c < d; c++)
            d_o[row * d + c] *= (float)keeps;
    }
}

/* y += softmax(Qi Ki^T / sqrt(di)) Vi Wio over all visible keys, Vi = sg(X) Wiv. */
static msa_status value_head_forward(const msa_ops *ops, const msa_shape *s, const msa_layer_config *c,
                                     const msa_layer_weights *w, const float *x, msa_layer_state *st,
                                     float *y, void *work)
{
    const msa_shape index = index_attention(s);
    const int64_t m = c->d_model, di = s->d_index;
    for (int b = 0; b < msa_n_seqs(s); b++) {
        msa_seq seq = msa_get_seq(s, b);
        ops->gemm(false, false, seq.n_q, di, m, x + seq.q0 * m, w->wiv, 0,
                  st->vi + (seq.kv0 + position(&seq, 0)) * di);
    }
    MSA_TRY(ops->stage[MSA_STAGE_DENSE]->dense(&index, st->qi, st->ki, st->vi, st->oi, NULL, work));
    ops->gemm(false, false, s->n_q, m, s->n_kv_heads * di, st->oi, w->wio, 1, y);
    return MSA_OK;
}

/* Its gradients, added to dqi, dki and the weights'; the value head reads sg(X), so dX is left alone. */
static msa_status value_head_backward(const msa_ops *ops, const msa_shape *s, const msa_layer_config *c,
                                      const msa_layer_weights *w, const float *x, const msa_layer_state *st,
                                      const float *dy, float *dqi, float *dki, const msa_layer_weights *dw,
                                      void *work)
{
    const msa_shape index = index_attention(s);
    const int64_t T = s->n_q, m = c->d_model, di = s->d_index, iq = s->n_kv_heads * di;
    float *doi = work_take(&work, T * iq, sizeof *doi);
    float *query = work_take(&work, T * iq, sizeof *query);
    float *key = work_take(&work, T * di, sizeof *key);
    float *dvi = work_take(&work, T * di, sizeof *dvi);
    ops->gemm(true, false, iq, m, T, st->oi, dy, 1, dw->wio);
    ops->gemm(false, true, T, iq, m, dy, w->wio, 0, doi);
    MSA_TRY(ops->stage[MSA_STAGE_BACKWARD]->backward(&index, st->qi, st->ki, st->vi, NULL, NULL, NULL, doi,
                                                     query, key, dvi, work));
    ops->gemm(true, false, m, di, T, x, dvi, 1, dw->wiv);
    for (int64_t a = 0; a < T * iq; a++)
        dqi[a] += query[a];
    for (int64_t a = 0; a < T * di; a++)
        dki[a] += key[a];
    return MSA_OK;
}

/* ---- The layer ------------------------------------------------------------------------------------------
 */

msa_status msa_layer_forward(const msa_ops *ops, const msa_shape *s, const msa_layer_config *c,
                             msa_attention mode, const msa_layer_weights *w, const float *x,
                             msa_layer_state *st, float *y, void *work)
{
    widths n;
    MSA_TRY(check_layer(s, c, &n));
    if (!ops || !w || !x || !st || !y || !work)
        return MSA_ERR_NULL;
    const int64_t T = s->n_q, m = c->d_model;
    const int dh = s->d_head, di = s->d_index, Hkv = s->n_kv_heads;
    MSA_TRY(msa_positions(s, st->pos));

    ops->gemm(false, false, T, n.q, m, x, w->wq, 0, st->q_raw);
    ops->gemm(false, false, T, n.kv, m, x, w->wk, 0, st->k_raw);
    for (int b = 0; b < msa_n_seqs(s); b++) {
        msa_seq seq = msa_get_seq(s, b);
        float *rows = st->v + (seq.kv0 + position(&seq, 0)) * n.kv;
        ops->gemm(false, false, seq.n_q, n.kv, m, x + seq.q0 * m, w->wv, 0, rows);
    }
    MSA_TRY(norm_rope(s, c, s->n_heads, dh, c->rot, st->q_raw, w->gq, st->pos, false, st->q));
    MSA_TRY(norm_rope(s, c, Hkv, dh, c->rot, st->k_raw, w->gk, st->pos, true, st->k));

    if (mode != MSA_ATTN_DENSE) {
        ops->gemm(false, false, T, n.iq, m, x, w->wiq, 0, st->qi_raw);
        ops->gemm(false, false, T, n.ik, m, x, w->wik, 0, st->ki_raw);
        MSA_TRY(norm_rope(s, c, Hkv, di, n.index_rot, st->qi_raw, w->giq, st->pos, false, st->qi));
        MSA_TRY(norm_rope(s, c, 1, di, n.index_rot, st->ki_raw, w->gik, st->pos, true, st->ki));
    }
    if (mode == MSA_ATTN_SPARSE)
        MSA_TRY(msa_forward(ops, s, st->q, st->k, st->v, st->qi, st->ki, NULL, st->ids, st->o, st->lse,
                            st->index_lse, work));
    else
        MSA_TRY(ops->stage[MSA_STAGE_DENSE]->dense(s, st->q, st->k, st->v, st->o, st->lse, work));
    const float *o = st->o;
    if (c->sink) {
        float *sunk = work_take(&work, T * n.q, sizeof *sunk);
        sink_forward(s, w->sink, st->lse, o, sunk);
        o = sunk;
    }
    ops->gemm(false, false, T, m, n.q, o, w->wo, 0, y);
    return c->value_head && mode != MSA_ATTN_DENSE ? value_head_forward(ops, s, c, w, x, st, y, work)
                                                   : MSA_OK;
}

msa_status msa_layer_backward(const msa_ops *ops, const msa_shape *s, const msa_layer_config *c,
                              msa_attention mode, const msa_layer_weights *w, const float *x,
                              const msa_layer_state *st, const float *dy, double kl_weight, float *dx,
                              const msa_layer_weights *dw, double *kl, void *work)
{
    widths n;
    MSA_TRY(check_layer(s, c, &n));
    if (!ops || !w || !x || !st || !dy || !dx || !dw || !kl || !work)
        return MSA_ERR_NULL;
    if (s->n_q != s->n_kv)
        return MSA_ERR_UNSUPPORTED;
    const int64_t T = s->n_q, m = c->d_model;
    const int dh = s->d_head, di = s->d_index, Hkv = s->n_kv_heads;
    float *d_o = work_take(&work, T * n.q, sizeof *d_o);
    float *dq = work_take(&work, T * n.q, sizeof *dq);
    float *dk = work_take(&work, T * n.kv, sizeof *dk);
    float *dv = work_take(&work, T * n.kv, sizeof *dv);
    float *dqi = work_take(&work, T * n.iq, sizeof *dqi);
    float *dki = work_take(&work, T * n.ik, sizeof *dki);
    double *channel = work_take(&work, max_i64(dh, di), sizeof *channel);
    const int32_t *ids = mode == MSA_ATTN_SPARSE ? st->ids : NULL;

    /* Main Branch: dY to Wo, through the attention, to Wq Wk Wv and X. */
    const float *o = st->o;
    float *slope = NULL;
    if (c->sink) {
        slope = work_take(&work, T * s->n_heads, sizeof *slope);
        sink_forward(s, w->sink, st->lse, o, dq); /* dq is free until the attention's backward pass */
        o = dq;
    }
    ops->gemm(true, false, n.q, m, T, o, dy, 1, dw->wo);
    ops->gemm(false, true, T, n.q, m, dy, w->wo, 0, d_o);
    if (c->sink)
        sink_backward(s, w->sink, st, d_o, slope, dw->sink);
    MSA_TRY(ops->stage[MSA_STAGE_BACKWARD]->backward(s, st->q, st->k, st->v, ids, st->o, st->lse, d_o, dq, dk,
                                                     dv, work));
    if (c->sink)
        MSA_TRY(lse_backward(ops, s, st, ids, slope, dq, dk, work));
    MSA_TRY(norm_rope_backward(s, c, s->n_heads, dh, c->rot, st->q_raw, w->gq, st->pos, dq, dw->gq, channel));
    MSA_TRY(norm_rope_backward(s, c, Hkv, dh, c->rot, st->k_raw, w->gk, st->pos, dk, dw->gk, channel));
    ops->gemm(true, false, m, n.q, T, x, dq, 1, dw->wq);
    ops->gemm(true, false, m, n.kv, T, x, dk, 1, dw->wk);
    ops->gemm(true, false, m, n.kv, T, x, dv, 1, dw->wv);
    ops->gemm(false, true, T, m, n.q, dq, w->wq, 0, dx);
    ops->gemm(false, true, T, m, n.kv, dk, w->wk, 1, dx);
    ops->gemm(false, true, T, m, n.kv, dv, w->wv, 1, dx);

    /* Index Branch: the KL loss alone, and it stops at Wiq and Wik. */
    *kl = 0;
    if (mode == MSA_ATTN_DENSE)
        return MSA_OK;
    MSA_TRY(ops->stage[MSA_STAGE_KL]->kl(s, st->q, st->k, st->qi, st->ki, ids, st->lse,
                                         ids ? st->index_lse : NULL, kl_weight, kl, dqi, dki, work));
    if (c->value_head)
        MSA_TRY(value_head_backward(ops, s, c, w, x, st, dy, dqi, dki, dw, work));
    MSA_TRY(
        norm_rope_backward(s, c, Hkv, di, n.index_rot, st->qi_raw, w->giq, st->pos, dqi, dw->giq, channel));
    MSA_TRY(norm_rope_backward(s, c, 1, di, n.index_rot, st->ki_raw, w->gik, st->pos, dki, dw->gik, channel));
    ops->gemm(true, false, m, n.iq, T, x, dqi, 1, dw->wiq);
    ops->gemm(true, false, m, n.ik, T, x, dki, 1, dw->wik);
    if (c->attached) {
        ops->gemm(false, true, T, m, n.iq, dqi, w->wiq, 1, dx);
        ops->gemm(false, true, T, m, n.ik, dki, w->wik, 1, dx);
    }
    return MSA_OK;
}
