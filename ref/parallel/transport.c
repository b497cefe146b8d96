/* What every transport does alike: counting, gathering. */
#include "transport.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

bool transport_exchange(transport *t, traffic_kind kind, const transport_part *to, const transport_part *from)
{
    const double start = now();
    const bool ok = t->exchange(t, to, from);
    t->waited += now() - start;
    for (int r = 0; r < t->ranks; r++)
        t->sent[kind] += r == t->rank ? 0 : (double)to[r].bytes;
    return ok;
}

/* Every rank's part, for everyone or for rank 0. */
static bool share(transport *t, traffic_kind kind, transport_part own, const transport_part *all,
                  bool everyone)
{
    const size_t ranks = (size_t)t->ranks;
    const bool takes = everyone || t->rank == 0;
    transport_part *to = calloc(2 * ranks, sizeof *to), *from = to + ranks;
    for (int r = 0; to && r < t->ranks; r++) {
        if (everyone || r == 0)
            to[r] = own;
        if (takes)
            from[r] = all[r];
    }
    const bool ok = to && transport_exchange(t, kind, to, from);
    if (takes && own.bytes)
        memcpy(all[t->rank].data, own.data, own.bytes);
    free(to);
    return ok;
}

bool transport_gather(transport *t, traffic_kind kind, transport_part own, const transport_part *all)
{
    return share(t, kind, own, all, true);
}

bool transport_collect(transport *t, traffic_kind kind, transport_part own, const transport_part *all)
{
    return share(t, kind, own, all, false);
}
