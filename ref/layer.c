/* One attention layer: projections, norm, rotary, index, Main Branch, output projection; and back.
 *
 *   Q = X Wq   K = X Wk   V = X Wv   Qi = sg(X) Wiq   Ki = sg(X) Wik   then norm and rotary on all but V
 *   Y = Attention(Q, K, V, blocks(Qi, Ki)) Wo
 *
 * sg(X) is visible in the backward pass as two lines that run only where the configuration says `attached`:
 * otherwise no gradient of Wiq or Wik is multiplied back into dX. */
#include "internal.h"
#include "stages.h"

typedef struct widths {
    int64_t q, kv, iq, ik; /* floats a token: Hq dh, Hkv dh, Hkv di, di */
    int index_rot;
} widths;

static msa_status check_layer(const msa_shape *s, const msa_layer_config *c, widths *w)
{
    MSA_TRY(msa_check_shape(s));
    if (!c)
        return MSA_ERR_NULL;
    if (c->d_model < 1)
        return MSA_ERR_SIZE;
    *w = (widths){(int64_t)s->n_heads * s->d_head, (int64_t)s->n_kv_heads * s->d_head,
                  (int64_t)s->n_kv_heads * s->d_index, s->d_index,
                  c->index_rot ? c->index_rot : c->rot};
    if (c->rot < 0 || c->rot > s->d_head || c->rot % 2 != 0 || w->index_rot < 0 || w->index_rot > s->d_index ||
        w->index_rot % 2 != 0)
        return MSA_ERR_ROTARY;
    return MSA_OK;
}

static const msa_kernel *step_of(const msa_ops *ops, msa_attention mode)
{
    return ops->stage[mode == MSA_ATTN_SPARSE ? MSA_STAGE_DECODE : MSA_STAGE_DENSE_DECODE];
}

bool msa_layer_caches_bf16(const msa_ops *ops, msa_attention mode)
{
    return ops && step_of(ops, mode)->run_half;
}

typedef struct forward_scratch {
    float *v, *sunk;            /* [T,Hkv,dh] new rows of a cache in pages; [T,Hq,dh] */
    uint16_t *q, *qi, *in_turn; /* of a cache that is bf16: [T,Hq,dh], [T,Hkv,di], new rows of K, V, Ki */
    void *stage, *value_head;
} forward_scratch;

static size_t place_forward(forward_scratch *f, const msa_ops *ops, const msa_shape *s,
                            const msa_layer_config *c, const widths *n, void *work)
{
    arena a = arena_over(work);
    f->v = arena_take(&a, s->n_q * n->kv, sizeof *f->v);
    f->sunk = c->sink ? arena_take(&a, s->n_q * n->q, sizeof *f->sunk) : NULL;
    f->value_head = c->value_head ? arena_share(&a, value_head_workspace(ops, s)) : NULL;
    const bool half =
        msa_layer_caches_bf16(ops, MSA_ATTN_DENSE) || msa_layer_caches_bf16(ops, MSA_ATTN_SPARSE);
    const int64_t rows = half ? s->n_q : 0;
    f->q = arena_take(&a, rows * n->q, sizeof *f->q);
    f->qi = arena_take(&a, rows * n->iq, sizeof *f->qi);
    f->in_turn = arena_take(&a, rows * max_i64(n->kv, n->ik), sizeof *f->in_turn);
    f->stage = arena_take(&a, 1, msa_workspace(ops, s));
    return arena_bytes(&a);
}

typedef struct backward_scratch {
    float *d_o, *dq, *dk, *dv, *dqi, *dki;
    float *slope;    /* [T,Hq] */
    double *channel; /* [dh] or [di] */
    void *stage, *sink, *value_head;
} backward_scratch;

static size_t place_backward(backward_scratch *b, const msa_ops *ops, const msa_shape *s,
                             const msa_layer_config *c, const widths *n, void *work)
{
    const int64_t T = s->n_q;
    arena a = arena_over(work);
    b->d_o = arena_take(&a, T * n->q, sizeof *b->d_o);
    b->dq = arena_take(&a, T * n->q, sizeof *b->dq);
    b->dk = arena_take(&a, T * n->kv, sizeof *b->dk);
    b->dv = arena_take(&a, T * n->kv, sizeof *b->dv);
    b->dqi = arena_take(&a, T * n->iq, sizeof *b->dqi);
    b->dki = arena_take(&a, T * n->ik, sizeof *b->dki);
    b->channel = arena_take(&a, max_i64(s->d_head, s->d_index), sizeof *b->channel);
    b->value_head = c->value_head ? arena_share(&a, value_head_workspace(ops, s)) : NULL;
    b->slope = c->sink ? arena_take(&a, T * s->n_heads, sizeof *b->slope) : NULL;
    b->sink = c->sink ? arena_share(&a, lse_backward_workspace(ops, s)) : NULL;
    b->stage = arena_take(&a, 1, msa_workspace(ops, s));
    return arena_bytes(&a);
}

size_t msa_layer_workspace(const msa_ops *ops, const msa_shape *s, const msa_layer_config *c)
{
    widths n;
    forward_scratch f;
    backward_scratch b;
    if (check_layer(s, c, &n) != MSA_OK)
        return 0;
    const size_t forward = place_forward(&f, ops, s, c, &n, NULL);
    const size_t backward = place_backward(&b, ops, s, c, &n, NULL);
    return (forward > backward ? forward : backward) + ARENA_ALIGN;
}

/* A projected tensor [T,heads,d] that is normed and turned. */
typedef struct projection {
    int heads, d, rot;
    const float *raw, *gain;
} projection;

/* Norm and rotary of one projected tensor to its rows of out. With `cached`, out is a KV
 * cache whose rows of this call follow each sequence's prefix; else out is [T,heads,d] as well. */
static msa_status norm_rope(const msa_shape *s, const msa_layer_config *c, projection p, const int32_t *pos,
                            bool cached, float *out)
{
    const int64_t width = (int64_t)p.heads * p.d;
    for (int b = 0; b < msa_n_seqs(s); b++) {
        msa_seq seq = msa_get_seq(s, b);
        int64_t to = cached ? seq.kv0 + position(&seq, 0) : seq.q0;
        float *rows = out + to * width;
        MSA_TRY(msa_rmsnorm(seq.n_q * p.heads, p.d, c->eps, p.raw + seq.q0 * width, p.gain, rows));
        MSA_TRY(msa_rope(seq.n_q, p.heads, p.d, p.rot, c->theta, pos + seq.q0, false, rows));
    }
    return MSA_OK;
}

/* Its gradient for T = S: from d(out), in place, to d(raw). Of padding d(out) is 0 and stays so. */
static msa_status norm_rope_backward(const msa_shape *s, const msa_layer_config *c, projection p,
                                     const int32_t *pos, float *grad, float *dgain, double *work)
{
    for (int r = 0; r < n_runs(s); r++) {
        const msa_seq run = get_run(s, r);
        const int64_t at = run.q0 * p.heads * p.d;
        MSA_TRY(msa_rope(run.n_q, p.heads, p.d, p.rot, c->theta, pos + run.q0, true, grad + at));
        MSA_TRY(msa_rmsnorm_backward(run.n_q * p.heads, p.d, c->eps, p.raw + at, p.gain, grad + at, grad + at,
                                     dgain, work));
    }
    return MSA_OK;
}

void add_weight_gradient(const msa_ops *ops, const msa_shape *s, int64_t m, const float *x, int64_t n,
                         const float *dy, float *dw)
{
    for (int r = 0; r < n_runs(s); r++) {
        const msa_seq run = get_run(s, r);
        ops->gemm(true, false, m, n, run.n_q, x + run.q0 * m, dy + run.q0 * n, 1, dw);
    }
}

/* Whether every sequence's keys are its queries' own, so that rows of dK are rows of X. */
static bool keys_are_queries(const msa_shape *s)
{
    for (int r = 0; r < msa_n_seqs(s); r++) {
        const msa_seq seq = msa_get_seq(s, r);
        if (seq.n_q != seq.n_kv || (seq.n_q > 0 && seq.q0 != seq.kv0))
            return false;
    }
    return s->n_q == s->n_kv;
}

/* p(i) of a paged call. */
static void paged_positions(const msa_shape *s, const msa_pages *p, int32_t *pos)
{
    for (int r = 0; r < msa_n_seqs(s); r++) {
        const request req = get_request(s, p, r);
        for (int64_t i = 0; i < padded_seq(s, r).n_q; i++)
            pos[req.seq.q0 + i] = i < req.seq.n_q ? (int32_t)position(&req.seq, i) : 0; /* of padding, any */
    }
}

/* x [n] as bf16, in `to`, which it returns. */
static const uint16_t *rounded(int64_t n, const float *x, uint16_t *to)
{
    for (int64_t c = 0; c < n; c++)
        to[c] = msa_bf16_bits(x[c]);
    return to;
}

/* The same of new rows [T,width], to the cache. */
static void append_rounded(const msa_shape *s, const msa_pages *p, int64_t width, const float *rows,
                           uint16_t *in_turn, void *cache)
{
    append_rows(s, p, (size_t)width * sizeof *in_turn, rounded(s->n_q * width, rows, in_turn), cache);
}

/* A step over pages: the new rows are st->k_raw, f->v and st->ki_raw. */
static msa_status paged_attention(const msa_ops *ops, const msa_shape *s, msa_attention mode, const widths *n,
                                  const msa_layer_state *st, const forward_scratch *f)
{
    const bool sparse = mode == MSA_ATTN_SPARSE;
    const msa_kernel *step = step_of(ops, mode);
    const msa_pages *p = st->pages;
    msa_arrays a = {.pages = pages_of(p), .q = st->q, .k = st->k, .v = st->v, .o = st->o, .lse = st->lse};
    if (sparse)
        a.qi = st->qi, a.ki = st->ki, a.ids = st->ids;
    if (!step->run_half) {
        MSA_TRY(msa_append(s, p, st->k_raw, f->v, sparse ? st->ki_raw : NULL, st->k, st->v, st->ki));
        return step->run(s, &a, f->stage);
    }
    if (p->ki8)
        return MSA_ERR_UNSUPPORTED;
    if (arrays_missing(step->stage, &a) || (sparse && !st->ki))
        return MSA_ERR_NULL;
    append_rounded(s, p, n->kv, st->k_raw, f->in_turn, st->k);
    append_rounded(s, p, n->kv, f->v, f->in_turn, st->v);
    a.q = rounded(s->n_q * n->q, st->q, f->q);
    if (sparse) {
        append_rounded(s, p, n->ik, st->ki_raw, f->in_turn, st->ki);
        a.qi = rounded(s->n_q * n->iq, st->qi, f->qi);
    }
    return step->run_half(s, &a, f->stage);
}

/* V of this call's tokens: to their rows of a contiguous cache, or to v. */
static void project_v(const msa_ops *ops, const msa_shape *s, const msa_layer_config *c, const float *x,
                      const float *wv, const msa_layer_state *st, float *v)
{
    const int64_t width = (int64_t)s->n_kv_heads * s->d_head;
    for (int b = 0; b < msa_n_seqs(s); b++) {
        msa_seq seq = msa_get_seq(s, b);
        float *rows = st->pages ? v + seq.q0 * width : st->v + (seq.kv0 + position(&seq, 0)) * width;
        ops->gemm(false, false, seq.n_q, width, c->d_model, x + seq.q0 * c->d_model, wv, 0, rows);
    }
}

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
    const bool paged = st->pages != NULL;
    forward_scratch f;
    place_forward(&f, ops, s, c, &n, work);
    MSA_TRY(msa_positions(s, st->pos));
    if (st->at)
        memcpy(st->pos, st->at, (size_t)T * sizeof *st->pos);
    if (paged) {
        MSA_TRY(mode == MSA_ATTN_WARMUP || c->value_head ? MSA_ERR_UNSUPPORTED
                                                         : msa_check_pages(s, st->pages));
        paged_positions(s, st->pages, st->pos);
    }

    ops->gemm(false, false, T, n.q, m, x, w->wq, 0, st->q_raw);
    ops->gemm(false, false, T, n.kv, m, x, w->wk, 0, st->k_raw);
    project_v(ops, s, c, x, w->wv, st, f.v);
    MSA_TRY(norm_rope(s, c, (projection){s->n_heads, dh, c->rot, st->q_raw, w->gq}, st->pos, false, st->q));
    MSA_TRY(norm_rope(s, c, (projection){Hkv, dh, c->rot, st->k_raw, w->gk}, st->pos, !paged,
                      paged ? st->k_raw : st->k));

    if (mode != MSA_ATTN_DENSE) {
        ops->gemm(false, false, T, n.iq, m, x, w->wiq, 0, st->qi_raw);
        ops->gemm(false, false, T, n.ik, m, x, w->wik, 0, st->ki_raw);
        MSA_TRY(
            norm_rope(s, c, (projection){Hkv, di, n.index_rot, st->qi_raw, w->giq}, st->pos, false, st->qi));
        MSA_TRY(norm_rope(s, c, (projection){1, di, n.index_rot, st->ki_raw, w->gik}, st->pos, !paged,
                          paged ? st->ki_raw : st->ki));
    }
    if (paged)
        MSA_TRY(paged_attention(ops, s, mode, &n, st, &f));
    else if (mode == MSA_ATTN_SPARSE)
        MSA_TRY(msa_forward(ops, s, st->q, st->k, st->v, st->qi, st->ki, NULL, st->ids, st->o, st->lse,
                            st->index_lse, f.stage));
    else
        MSA_TRY(ops->stage[MSA_STAGE_DENSE]->run(
            s, &(msa_arrays){.q = st->q, .k = st->k, .v = st->v, .o = st->o, .lse = st->lse}, f.stage));
    const float *o = st->o;
    if (c->sink) {
        sink_forward(s, w->sink, st->lse, o, f.sunk);
        o = f.sunk;
    }
    ops->gemm(false, false, T, m, n.q, o, w->wo, 0, y);
    return c->value_head && mode != MSA_ATTN_DENSE ? value_head_forward(ops, s, c, w, x, st, y, f.value_head)
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
    if (!keys_are_queries(s))
        return MSA_ERR_UNSUPPORTED;
    const int64_t T = s->n_q, m = c->d_model;
    const int dh = s->d_head, di = s->d_index, Hkv = s->n_kv_heads;
    backward_scratch b;
    place_backward(&b, ops, s, c, &n, work);
    float *d_o = b.d_o, *dq = b.dq, *dk = b.dk, *dv = b.dv, *dqi = b.dqi, *dki = b.dki;
    const int32_t *ids = mode == MSA_ATTN_SPARSE ? st->ids : NULL;

    /* Main Branch: dY to Wo, through the attention, to Wq Wk Wv and X. */
    const float *o = st->o;
    if (c->sink) {
        sink_forward(s, w->sink, st->lse, o, dq); /* dq is free until the attention's backward pass */
        o = dq;
    }
    add_weight_gradient(ops, s, n.q, o, m, dy, dw->wo);
    ops->gemm(false, true, T, n.q, m, dy, w->wo, 0, d_o);
    if (c->sink)
        sink_backward(s, w->sink, st, d_o, b.slope, dw->sink);
    msa_arrays a = {.q = st->q, .k = st->k, .v = st->v, .qi = st->qi, .ki = st->ki, .ids = ids};
    a.o = st->o, a.lse = st->lse, a.dout = d_o, a.dq = dq, a.dk = dk, a.dv = dv;
    MSA_TRY(ops->stage[MSA_STAGE_BACKWARD]->run(s, &a, b.stage));
    if (c->sink)
        MSA_TRY(lse_backward(ops, s, st, ids, b.slope, dq, dk, b.sink));
    MSA_TRY(norm_rope_backward(s, c, (projection){s->n_heads, dh, c->rot, st->q_raw, w->gq}, st->pos, dq,
                               dw->gq, b.channel));
    MSA_TRY(norm_rope_backward(s, c, (projection){Hkv, dh, c->rot, st->k_raw, w->gk}, st->pos, dk, dw->gk,
                               b.channel));
    add_weight_gradient(ops, s, m, x, n.q, dq, dw->wq);
    add_weight_gradient(ops, s, m, x, n.kv, dk, dw->wk);
    add_weight_gradient(ops, s, m, x, n.kv, dv, dw->wv);
    ops->gemm(false, true, T, m, n.q, dq, w->wq, 0, dx);
    ops->gemm(false, true, T, m, n.kv, dk, w->wk, 1, dx);
    ops->gemm(false, true, T, m, n.kv, dv, w->wv, 1, dx);

    /* Index Branch: the KL loss alone, and it stops at Wiq and Wik. */
    *kl = 0;
    if (mode == MSA_ATTN_DENSE)
        return MSA_OK;
    a.index_lse = ids ? st->index_lse : NULL, a.weight = kl_weight, a.loss = kl, a.dqi = dqi, a.dki = dki;
    MSA_TRY(ops->stage[MSA_STAGE_KL]->run(s, &a, b.stage));
    if (c->value_head)
        MSA_TRY(value_head_backward(ops, s, c, w, x, st, dy, &a, dw, b.value_head));
    MSA_TRY(norm_rope_backward(s, c, (projection){Hkv, di, n.index_rot, st->qi_raw, w->giq}, st->pos, dqi,
                               dw->giq, b.channel));
    MSA_TRY(norm_rope_backward(s, c, (projection){1, di, n.index_rot, st->ki_raw, w->gik}, st->pos, dki,
                               dw->gik, b.channel));
    add_weight_gradient(ops, s, m, x, n.iq, dqi, dw->wiq);
    add_weight_gradient(ops, s, m, x, n.ik, dki, dw->wik);
    if (c->attached) {
        ops->gemm(false, true, T, m, n.iq, dqi, w->wiq, 1, dx);
        ops->gemm(false, true, T, m, n.ik, dki, w->wik, 1, dx);
    }
    return MSA_OK;
}
