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

bool transport_gather(transport *t, traffic_kind kind, transport_part own, const transport_part *all)
{
    transport_part *to = malloc((size_t)t->ranks * sizeof *to);
    for (int r = 0; to && r < t->ranks; r++)
        to[r] = own;
    const bool ok = to && transport_exchange(t, kind, to, all);
    if (own.bytes)
        memcpy(all[t->rank].data, own.data, own.bytes);
    free(to);
    return ok;
}
