/* Which way a call goes, and its results. */
#include "parallel.h"

#include <stdlib.h>

traffic_call parallel_traffic(const parallel_call *c)
{
    const msa_shape *s = &c->keys->s;
    double keys = 0;
    for (int n = 0; n < msa_n_seqs(s); n++)
        keys += msa_get_seq(s, n).n_q ? (double)msa_get_seq(s, n).n_kv : 0;
    traffic_call model = {s, c->keys->ranks, (double)c->rows->n, keys, sizeof(float), sizeof(float), c->dense,
                          0};
    for (int64_t i = 0; i < c->rows->n; i++)
        model.owners += traffic_owners(&model, (double)(c->rows->at[i] / s->block + 1)) / model.rows;
    return model;
}

msa_status parallel_attend(transport *t, parallel_call *c)
{
    const traffic_call model = parallel_traffic(c);
    return traffic_moves_queries(&model) ? parallel_pass_q(t, c) : parallel_pass_kv(t, c);
}

msa_status parallel_collect(transport *t, const deal_rows *rows, size_t bytes, const void *own, void *to)
{
    const int64_t *first = rows->first;
    transport_part *part = calloc((size_t)t->ranks, sizeof *part);
    char *all = t->rank == 0 ? malloc((size_t)rows->n * bytes + 1) : NULL;
    bool ok = part && (all || t->rank != 0);
    if (ok) {
        const size_t mine = (size_t)(first[t->rank + 1] - first[t->rank]) * bytes;
        for (int r = 0; all && r < t->ranks; r++)
            part[r] =
                (transport_part){all + (size_t)first[r] * bytes, (size_t)(first[r + 1] - first[r]) * bytes};
        ok = transport_collect(t, TRAFFIC_OTHER, (transport_part){(void *)(uintptr_t)own, mine}, part);
    }
    if (ok && all)
        deal_give(rows, bytes, all, to);
    free(part), free(all);
    return ok ? MSA_OK : MSA_ERR_DEVICE;
}
