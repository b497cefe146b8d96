/* Which way a call goes, and its results. */
#include "parallel.h"

#include <stdlib.h>

traffic_call parallel_traffic(const parallel_call *c)
{
    const msa_shape *s = &c->keys->s;
    double keys = 0;
    for (int n = 0; n < msa_n_seqs(s); n++)
        keys += msa_get_seq(s, n).n_q ? (double)msa_get_seq(s, n).n_kv : 0;
    return (traffic_call){s,       c->keys->ranks, (double)c->rows->n, keys, sizeof(float), sizeof(float),
                          c->dense};
}

msa_status parallel_attend(transport *t, parallel_call *c)
{
    const traffic_call model = parallel_traffic(c);
    return traffic_moves_queries(&model) ? parallel_pass_q(t, c) : parallel_pass_kv(t, c);
}

msa_status parallel_collect(transport *t, const deal_rows *rows, size_t bytes, const void *own, void *to)
{
    const size_t ranks = (size_t)t->ranks;
    const int64_t *first = rows->first;
    transport_part *out = calloc(2 * ranks, sizeof *out), *in = out + ranks;
    char *all = t->rank == 0 ? malloc((size_t)rows->n * bytes + 1) : NULL;
    bool ok = out && (all || t->rank != 0);
    if (ok) {
        const size_t mine = (size_t)(first[t->rank + 1] - first[t->rank]) * bytes;
        out[0] = (transport_part){(void *)(uintptr_t)own, mine};
        for (size_t r = 0; all && r < ranks; r++)
            in[r] =
                (transport_part){all + (size_t)first[r] * bytes, (size_t)(first[r + 1] - first[r]) * bytes};
        if (all && mine)
            memcpy(all, own, mine);
        ok = transport_exchange(t, TRAFFIC_OTHER, out, in);
    }
    if (ok && all)
        deal_give(rows, bytes, all, to);
    free(out), free(all);
    return ok ? MSA_OK : MSA_ERR_DEVICE;
}
