/* A call on ranks from and to arrays of the host. */
#include <stdlib.h>

#include "../../ref/stages.h"
#include "device.h"

enum { PAGE, K, V, KI, CODES, SCALE, REACH, ERROR, DONE, Q, QI, IDS, O, LSE, BUFFERS };

traffic_call device_traffic(const parallel_call *c)
{
    traffic_call model = parallel_traffic(c);
    model.element = model.index_key = sizeof(uint16_t);
    return model;
}

static msa_status put_rounded(const wire *w, buffer *b, const float *x, int64_t n)
{
    uint16_t *rounded = malloc((size_t)n * sizeof *rounded + 1);
    for (int64_t i = 0; rounded && i < n; i++)
        rounded[i] = msa_bf16_bits(x[i]);
    const msa_status status = rounded ? wire_put(w, b, rounded, (size_t)n * sizeof *rounded) : MSA_ERR_DEVICE;
    free(rounded);
    return status;
}

/* The 8-bit copy that bounds what the device multiplies: of own blocks' keys in bf16. */
static msa_status put_codes(const wire *w, const parallel_call *c, buffer *b)
{
    const msa_shape *s = &c->keys->s;
    const size_t own = (size_t)c->keys->first[msa_n_seqs(s)], block = (size_t)s->block * (size_t)s->d_index,
                 tokens = (size_t)c->keys->n_pages * block;
    deal_shard rounded = *c->keys;
    rounded.ki8 = (msa_index8){0};
    rounded.ki = malloc(tokens * sizeof *rounded.ki + 1);
    for (size_t i = 0; rounded.ki && i < tokens; i++)
        rounded.ki[i] = msa_bf16(c->keys->ki[i]);
    msa_status status = rounded.ki && deal_screen(&rounded) ? MSA_OK : MSA_ERR_DEVICE;
    const float *const numbers[] = {rounded.ki8.scale, rounded.ki8.reach, rounded.ki8.error};
    if (status == MSA_OK)
        status = wire_put(w, &b[CODES], rounded.ki8.codes, own * block);
    for (int i = 0; i < 3 && status == MSA_OK; i++)
        status = wire_put(w, &b[SCALE + i], numbers[i], own * sizeof *numbers[i]);
    if (status == MSA_OK)
        status = wire_put(w, &b[DONE], &c->screening, sizeof c->screening);
    free(rounded.ki), free(rounded.ki8.codes), free(rounded.ki8.scale);
    return status;
}

static msa_status put_all(const wire *w, const parallel_call *c, int64_t rows, buffer *b)
{
    const msa_shape *s = &c->keys->s;
    const int64_t tokens = c->keys->n_pages * s->block, heads = s->n_heads, kv = s->n_kv_heads;
    const size_t own = (size_t)c->keys->first[msa_n_seqs(s)];
    MSA_TRY(wire_put(w, &b[PAGE], c->keys->page, own * sizeof *c->keys->page));
    MSA_TRY(put_rounded(w, &b[K], c->keys->k, tokens * kv * s->d_head));
    MSA_TRY(put_rounded(w, &b[V], c->keys->v, tokens * kv * s->d_head));
    MSA_TRY(put_rounded(w, &b[KI], c->keys->ki, tokens * s->d_index));
    if (c->keys->ki8.codes)
        MSA_TRY(put_codes(w, c, b));
    MSA_TRY(put_rounded(w, &b[Q], c->q, rows * heads * s->d_head));
    MSA_TRY(put_rounded(w, &b[QI], c->qi, rows * kv * s->d_index));
    MSA_TRY(wire_grow(w, &b[IDS], (size_t)(rows * kv * s->topk) * sizeof *c->ids));
    MSA_TRY(wire_grow(w, &b[O], (size_t)(rows * heads * s->d_head) * sizeof *c->o));
    return wire_grow(w, &b[LSE], (size_t)(rows * heads) * sizeof *c->lse);
}

static msa_status take_all(const wire *w, parallel_call *c, int64_t rows, const buffer *b)
{
    const msa_shape *s = &c->keys->s;
    const size_t n = (size_t)rows, heads = (size_t)s->n_heads;
    MSA_TRY(w->device->download(c->ids, b[IDS].p, n * (size_t)(s->n_kv_heads * s->topk) * sizeof *c->ids));
    if (b[DONE].p)
        MSA_TRY(w->device->download(&c->screening, b[DONE].p, sizeof c->screening));
    MSA_TRY(w->device->download(c->o, b[O].p, n * heads * (size_t)s->d_head * sizeof *c->o));
    return w->device->download(c->lse, b[LSE].p, n * heads * sizeof *c->lse);
}

msa_status device_attend(wire *w, parallel_call *c, bool queries, int64_t chunk)
{
    const int64_t rows = c->rows->first[w->t->rank + 1] - c->rows->first[w->t->rank];
    char index[KERNEL_NAME], sparse[KERNEL_NAME], dense_decode[KERNEL_NAME];
    buffer b[BUFFERS] = {{NULL, 0}};
    wire_enter();
    msa_status status = put_all(w, c, rows, b);
    wire_leave();
    device_call of = {.keys = c->keys,
                      .rows = c->rows,
                      .page = b[PAGE].p,
                      .k = b[K].p,
                      .v = b[V].p,
                      .ki = b[KI].p,
                      .codes = b[CODES].p,
                      .scale = b[SCALE].p,
                      .reach = b[REACH].p,
                      .error = b[ERROR].p,
                      .done = b[DONE].p,
                      .q = b[Q].p,
                      .qi = b[QI].p,
                      .ids = b[IDS].p,
                      .o = b[O].p,
                      .lse = b[LSE].p,
                      .index = kernel_name(c->ops->stage[MSA_STAGE_INDEX], index),
                      .sparse = kernel_name(c->ops->stage[MSA_STAGE_SPARSE], sparse),
                      .dense_decode = kernel_name(c->ops->stage[MSA_STAGE_DENSE_DECODE], dense_decode),
                      .chunk = chunk};
    if (status == MSA_OK)
        status = queries ? device_pass_q(w, &of) : device_pass_kv(w, &of);
    c->pairs = of.pairs;
    wire_enter();
    if (status == MSA_OK)
        status = take_all(w, c, rows, b);
    wire_drop(w, b, BUFFERS);
    wire_leave();
    return status;
}
