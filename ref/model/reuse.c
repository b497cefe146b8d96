/* One selection for several layers: a layer takes the ids of one before it in place of its own. */
#include <stdlib.h>
#include <string.h>

#include "evaluate.h"
#include "internal.h"

/* ---- What is lost in recall --------------------------------------------------------------------------- */

static bool reuse_of_layer(const model_run *run, int layer, msa_recall_result sum[EVAL_FARTHEST + 1])
{
    const msa_shape s = model_run_shape(run);
    const msa_layer_state *st = model_run_layer(run, layer);
    void *work = malloc(msa_recall_workspace(&s));
    for (int before = 0; work && before <= EVAL_FARTHEST && before <= layer; before++) {
        msa_recall_result one;
        must(msa_recall(&s, st->q, st->k, model_run_layer(run, layer - before)->ids, NULL, &one, work));
        eval_add_recall(&sum[before], &one);
    }
    free(work);
    return work != NULL;
}

bool eval_reuse_recalls(const model *m, const msa_ops *ops, const eval_windows *t,
                        msa_recall_result (*out)[EVAL_FARTHEST + 1])
{
    const int layers = m->config.n_layers;
    model_run *run = model_run_new(m, ops, 1, t->length, false);
    bool ok = run != NULL;
    memset(out, 0, (size_t)layers * sizeof *out);
    for (int w = 0; ok && w < t->count; w++) {
        model_forward(m, run, MSA_ATTN_SPARSE, eval_window(t, w));
#pragma omp parallel for schedule(dynamic) reduction(&& : ok)
        for (int l = 0; l < layers; l++)
            ok = reuse_of_layer(run, l, out[l]) && ok;
    }
    model_run_free(run);
    for (int l = 0; l < layers; l++)
        for (int before = 0; before <= EVAL_FARTHEST; before++) {
            out[l][before].block_recall /= (double)out[l][before].rows;
            out[l][before].score_recall /= (double)out[l][before].rows;
        }
    return ok;
}

/* ---- What is lost in bits per byte --------------------------------------------------------------------- */

/* A kernel is told nothing but its arrays: which layer calls, and what the last one chose, it finds here. One forward
 * pass shares at a time. */
static struct {
    const msa_kernel *index;
    int layer, layers, period;
    const int32_t *ids; /* they stay in the run */
} sharing;

static msa_status shared_index(const msa_shape *s, const msa_arrays *a, void *work)
{
    const int layer = sharing.layer++ % sharing.layers;
    if (layer % sharing.period == 0) {
        sharing.ids = a->ids;
        return sharing.index->run(s, a, work);
    }
    int32_t *ids = (void *)(uintptr_t)a->ids;
    memcpy(ids, sharing.ids, (size_t)s->n_kv_heads * (size_t)s->n_q * (size_t)s->topk * sizeof *ids);
    return MSA_OK;
}

bool eval_reuse_bits(const model *m, const msa_ops *ops, const eval_windows *t, int period, double *bits)
{
    msa_kernel shared = *ops->stage[MSA_STAGE_INDEX];
    msa_ops own = *ops;
    shared.run = shared_index;
    own.stage[MSA_STAGE_INDEX] = &shared;
    sharing.index = ops->stage[MSA_STAGE_INDEX];
    sharing.layer = 0;
    sharing.layers = m->config.n_layers;
    sharing.period = period;
    return eval_bits_per_byte(m, &own, t, MSA_ATTN_SPARSE, bits);
}
