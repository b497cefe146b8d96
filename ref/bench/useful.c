/* Of the work of a run what nobody can spare. */
#include "useful.h"

#include <stdlib.h>
#include <string.h>

#include "../judge/selections.h"
#include "roofline.h"

double useful_flops(const subject *t, const int32_t *ids)
{
    const double kl =
        t->kl ? 3.0 * t->s->d_index * selection_pairs(t->s, ids) : 0; /* the index's part of it */
    return 2 * (roofline_fma(t->kernel->stage, t->s, ids) + kl);
}

/* The share of the scores that belong to blocks with a visible key: nobody has to read the others. */
static double visible_scores(const msa_shape *s)
{
    double visible = 0;
    for (int n = 0; n < msa_n_seqs(s); n++) {
        const msa_seq seq = msa_get_seq(s, n);
        for (int64_t i = 0; i < seq.n_q; i++)
            visible += (double)((seq.n_kv - seq.n_q + i) / s->block + 1);
    }
    return visible / (double)(s->n_q * msa_n_blocks(s));
}

/* Screened by their 8-bit copy, half as large, keys of bf16 are read where they are settled; copies of a call's own
 * are made from all of them. */
static double key_share(const subject *t)
{
    const msa_screening *done = &t->screening;
    return t->codes && done->rows > 0 ? 0.5 + (double)done->settled / (double)done->blocks : 1;
}

/* Keys and values count as far as somebody selected their blocks. */
double moved_bytes(const subject *t, const int32_t *ids)
{
    const msa_shape *s = t->s;
    const double all = (double)selection_blocks(s, NULL);
    const double share =
        ids && t->kernel->stage != MSA_STAGE_TOPK ? (double)selection_blocks(s, ids) / all : 1;
    const double seen = HAS(t->in, ARRAY_SCORES) ? visible_scores(s) : 1;
    double bytes = 0;
    for (int i = 0; i < ARRAY_N; i++) {
        const double whole = HAS(t->in | t->out, i) ? (double)subject_bytes(t, (array_id)i) : 0;
        const double part = i == ARRAY_K || i == ARRAY_V ? share
                            : i == ARRAY_SCORES          ? seen
                            : i == ARRAY_KI              ? key_share(t)
                                                         : 1;
        bytes += part * whole;
    }
    return bytes;
}

msa_status useful_ids(const subject *t, int32_t **ids)
{
    const int64_t n = array_count(t->s, NULL, ARRAY_IDS);
    *ids = NULL;
    if (!HAS(t->in | t->out, ARRAY_IDS))
        return MSA_OK;
    *ids = malloc((size_t)n * sizeof **ids);
    if (!*ids)
        return MSA_ERR_SIZE;
    if (!HAS(t->in, ARRAY_IDS))
        return subject_fetch(t, ARRAY_IDS, 0, n, *ids);
    memcpy(*ids, t->given[ARRAY_IDS], (size_t)n * sizeof **ids);
    return MSA_OK;
}
