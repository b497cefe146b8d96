/* Keys travel to the queries: everyone sends its blocks to all others and lays what comes into whole sequences. Then each
 * of a home's slices, of which a sequence has two, is a call of its own: the last queries of a prefix. */
#include <stdlib.h>

#include "whole.h"

typedef struct job {
    const parallel_call *c;
    const whole *w;
} job;

static msa_status attend_range(void *context, const msa_shape *s, int64_t x, int seq)
{
    const parallel_call *c = ((job *)context)->c;
    const whole *w = ((job *)context)->w;
    const int64_t heads = s->n_heads, kv_heads = s->n_kv_heads, kv0 = w->kv0[seq], n = s->n_q;
    const float *q = c->q + x * heads * s->d_head, *k = w->k + kv0 * kv_heads * s->d_head,
                *v = w->v + kv0 * kv_heads * s->d_head;
    float *o = c->o + x * heads * s->d_head, *lse = c->lse + x * heads;
    void *work = malloc(msa_workspace(c->ops, s) + 1);
    int32_t *ids = c->dense ? NULL : malloc((size_t)(n * kv_heads * s->topk) * sizeof *ids);
    msa_status status = work && (c->dense || ids) ? MSA_OK : MSA_ERR_DEVICE;
    if (status == MSA_OK && c->dense)
        status = c->ops->stage[MSA_STAGE_DENSE]->run(
            s, &(msa_arrays){.q = q, .k = k, .v = v, .o = o, .lse = lse}, work);
    else if (status == MSA_OK)
        status = msa_forward(c->ops, s, q, k, v, c->qi + x * kv_heads * s->d_index, w->ki + kv0 * s->d_index,
                             NULL, ids, o, lse, NULL, work);
    for (int64_t row = 0; status == MSA_OK && ids && row < n * kv_heads; row++)
        memcpy(c->ids + (x * kv_heads + row) * s->topk, ids + (row % kv_heads * n + row / kv_heads) * s->topk,
               (size_t)s->topk * sizeof *ids);
    free(work), free(ids);
    return status;
}

msa_status parallel_pass_kv(transport *t, parallel_call *c)
{
    whole w;
    msa_status status = new_whole(&w, &c->keys->s, c->dense) ? MSA_OK : MSA_ERR_DEVICE;
    if (status == MSA_OK)
        status = gather_whole(t, c->keys, &w);
    if (status == MSA_OK)
        status = walk_ranges(c->rows, t->rank, &c->keys->s, attend_range, &(job){c, &w});
    free_whole(&w);
    return status;
}
