/* One block of the network: x += Attention(norm(x)); x += SwiGLU(norm(x)). Forward and backward. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../parallel/transport.h"
#include "internal.h"

void must(msa_status status)
{
    if (status == MSA_OK)
        return;
    transport_last_word();
    fprintf(stderr, "msa: internal error: %s\n", msa_strerror(status));
    abort();
}

void place_block(const model_config *c, int64_t n, block_state *b, arena *a)
{
    const int64_t d = c->d_model, ff = c->d_ff, q = (int64_t)c->n_heads * c->d_head, groups = c->n_kv_heads,
                  kv = groups * c->d_head, iq = groups * c->d_index, ik = c->d_index;
    msa_layer_state *st = &b->attention;
    const struct {
        float **piece;
        int64_t width;
    } part[] = {{&b->x, d},      {&b->attn_in, d}, {&b->attn_out, d}, {&b->mid, d},
                {&b->mlp_in, d}, {&b->gate, ff},   {&b->up, ff},      {&b->act, ff},
                {&st->q_raw, q}, {&st->k_raw, kv}, {&st->qi_raw, iq}, {&st->ki_raw, ik},
                {&st->q, q},     {&st->qi, iq},    {&st->o, q},       {&st->lse, c->n_heads}};
    for (size_t i = 0; i < sizeof part / sizeof *part; i++)
        *part[i].piece = arena_take(a, n * part[i].width, sizeof(float));
    st->index_lse = NULL; /* nothing here needs it */
    st->oi = c->value_head ? arena_take(a, n * iq, sizeof(float)) : NULL;
    st->ids = arena_take(a, n * groups * c->topk, sizeof(int32_t));
    st->pos = arena_take(a, n, sizeof(int32_t));
}

void place_cache(const model_config *c, int64_t length, size_t size, msa_layer_state *st, arena *a)
{
    const int64_t kv = (int64_t)c->n_kv_heads * c->d_head;
    st->k = arena_take(a, length * kv, size);
    st->v = arena_take(a, length * kv, size);
    st->ki = arena_take(a, length * c->d_index, size);
    st->vi = c->value_head ? arena_take(a, length * c->d_index, size) : NULL;
}

msa_shape attention_shape(const model_config *c, int64_t n_q, int64_t n_kv)
{
    return (msa_shape){.n_q = n_q,
                       .n_kv = n_kv,
                       .n_heads = c->n_heads,
                       .n_kv_heads = c->n_kv_heads,
                       .d_head = c->d_head,
                       .d_index = c->d_index,
                       .block = c->block,
                       .topk = c->topk};
}

msa_layer_config attention_config(const model_config *c)
{
    return (msa_layer_config){.d_model = c->d_model,
                              .rot = c->d_head / 2,
                              .index_rot = c->d_index / 2, /* half of every head, whatever its width */
                              .theta = c->theta,
                              .eps = c->eps,
                              .attached = c->attached,
                              .sink = c->sink,
                              .value_head = c->value_head};
}

msa_layer_weights attention_weights(const model *m, float *buffer, int l)
{
    const model_config *c = &m->config;
    return (msa_layer_weights){.wq = layer_part(m, buffer, l, WQ),
                               .wk = layer_part(m, buffer, l, WK),
                               .wv = layer_part(m, buffer, l, WV),
                               .wo = layer_part(m, buffer, l, WO),
                               .wiq = layer_part(m, buffer, l, WIQ),
                               .wik = layer_part(m, buffer, l, WIK),
                               .gq = layer_part(m, buffer, l, Q_NORM),
                               .gk = layer_part(m, buffer, l, K_NORM),
                               .giq = layer_part(m, buffer, l, IQ_NORM),
                               .gik = layer_part(m, buffer, l, IK_NORM),
                               .sink = c->sink ? extra_part(m, buffer, l, 0) : NULL,
                               .wiv = c->value_head ? extra_part(m, buffer, l, c->sink) : NULL,
                               .wio = c->value_head ? extra_part(m, buffer, l, c->sink + 1) : NULL};
}

static void add(int64_t n, const float *a, const float *b, float *sum)
{
    for (int64_t i = 0; i < n; i++)
        sum[i] = a[i] + b[i];
}

/* act = silu(gate) * up, silu(x) = x / (1 + e^-x) */
static void swiglu(int64_t n, const float *gate, const float *up, float *act)
{
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++)
        act[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
}

/* dgate and dup from dact; dgate may be dact. silu' = s (1 + x (1 - s)), s = 1/(1+e^-x) */
static void swiglu_backward(int64_t n, const float *gate, const float *up, const float *dact, float *dgate,
                            float *dup)
{
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        float s = 1 / (1 + expf(-gate[i])), d = dact[i];
        dup[i] = d * gate[i] * s;
        dgate[i] = d * up[i] * s * (1 + gate[i] * (1 - s));
    }
}

void block_forward(const model *m, int l, const msa_ops *ops, const msa_shape *s, msa_attention mode,
                   block_state *st, float *out, void *work)
{
    const model_config *c = &m->config;
    const int64_t n = s->n_q, d = c->d_model, ff = c->d_ff;
    const msa_layer_config lc = attention_config(c);
    const msa_layer_weights w = attention_weights(m, m->params, l);

    must(msa_rmsnorm(n, c->d_model, c->eps, st->x, layer_part(m, m->params, l, ATTN_NORM), st->attn_in));
    must(msa_layer_forward(ops, s, &lc, mode, &w, st->attn_in, &st->attention, st->attn_out, work));
    add(n * d, st->x, st->attn_out, st->mid);

    must(msa_rmsnorm(n, c->d_model, c->eps, st->mid, layer_part(m, m->params, l, MLP_NORM), st->mlp_in));
    ops->gemm(false, false, n, ff, d, st->mlp_in, layer_part(m, m->params, l, W_GATE), 0, st->gate);
    ops->gemm(false, false, n, ff, d, st->mlp_in, layer_part(m, m->params, l, W_UP), 0, st->up);
    swiglu(n * ff, st->gate, st->up, st->act);
    memcpy(out, st->mid, (size_t)(n * d) * sizeof *out);
    ops->gemm(false, false, n, d, ff, st->act, layer_part(m, m->params, l, W_DOWN), 1, out);
}

void block_backward(const model *m, int l, const msa_ops *ops, const msa_shape *s, msa_attention mode,
                    const block_state *st, double lambda, float *dout, double *kl,
                    const block_scratch *scratch)
{
    const model_config *c = &m->config;
    float *grads = scratch->grads;
    const int64_t n = s->n_q, d = c->d_model, ff = c->d_ff;
    const msa_layer_config lc = attention_config(c);
    const msa_layer_weights w = attention_weights(m, m->params, l), dw = attention_weights(m, grads, l);
    float *dact = scratch->wide1, *dgate = scratch->wide2, *dup = scratch->wide3, *dx = scratch->narrow;

    /* MLP */
    ops->gemm(false, true, n, ff, d, dout, layer_part(m, m->params, l, W_DOWN), 0, dact);
    ops->gemm(true, false, ff, d, n, st->act, dout, 1, layer_part(m, grads, l, W_DOWN));
    swiglu_backward(n * ff, st->gate, st->up, dact, dgate, dup);
    ops->gemm(true, false, d, ff, n, st->mlp_in, dgate, 1, layer_part(m, grads, l, W_GATE));
    ops->gemm(true, false, d, ff, n, st->mlp_in, dup, 1, layer_part(m, grads, l, W_UP));
    ops->gemm(false, true, n, d, ff, dgate, layer_part(m, m->params, l, W_GATE), 0, dx);
    ops->gemm(false, true, n, d, ff, dup, layer_part(m, m->params, l, W_UP), 1, dx);
    must(msa_rmsnorm_backward(n, c->d_model, c->eps, st->mid, layer_part(m, m->params, l, MLP_NORM), dx, dx,
                              layer_part(m, grads, l, MLP_NORM), scratch->channel));
    add(n * d, dout, dx, dout);

    /* Attention */
    must(msa_layer_backward(ops, s, &lc, mode, &w, st->attn_in, &st->attention, dout, lambda, dx, &dw, kl,
                            scratch->work));
    must(msa_rmsnorm_backward(n, c->d_model, c->eps, st->x, layer_part(m, m->params, l, ATTN_NORM), dx, dx,
                              layer_part(m, grads, l, ATTN_NORM), scratch->channel));
    add(n * d, dout, dx, dout);
}
