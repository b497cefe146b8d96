/* Ranks of a world that exchange among themselves: messages to all others are empty. */
#include <stdlib.h>

#include "context.h"

static bool exchange(transport *t, const transport_part *to, const transport_part *from)
{
    const parallel_group *g = t->body;
    const int all = g->world->ranks;
    for (int r = 0; r < all; r++) {
        const int here = r - g->first;
        const bool inside = here >= 0 && here < t->ranks;
        g->part[r] = inside ? to[here] : (transport_part){NULL, 0};
        g->part[all + r] = inside ? from[here] : (transport_part){NULL, 0};
    }
    return g->world->exchange(g->world, g->part, g->part + all);
}

static void end(transport *t, int status)
{
    const parallel_group *g = t->body;
    g->world->end(g->world, status);
}

bool parallel_new_group(parallel_group *g, transport *world, int ranks)
{
    *g = (parallel_group){
        .t = {.rank = world->rank % ranks, .ranks = ranks, .exchange = exchange, .end = end, .body = g},
        .world = world,
        .first = world->rank / ranks * ranks,
        .part = malloc(2 * (size_t)world->ranks * sizeof *g->part)};
    return g->part;
}

void parallel_free_group(parallel_group *g)
{
    free(g->part);
}
