/* A program that is one of several processes, over MPI. Its own error handler ends all of them where a message fails, and
 * mpirun where one of them dies. */
#include <mpi.h>
#include <stdlib.h>

#include "will.h"

#define MOST ((size_t)1 << 30) /* bytes of a message: MPI counts in int */

static int messages_of(const transport_part *part, int ranks)
{
    size_t n = 0;
    for (int r = 0; r < ranks; r++)
        n += part[r].bytes / MOST + 1;
    return (int)n;
}

static bool exchange(transport *t, const transport_part *to, const transport_part *from)
{
    MPI_Request *wait =
        malloc((size_t)(messages_of(to, t->ranks) + messages_of(from, t->ranks)) * sizeof *wait);
    int n = 0;
    for (int way = 0; wait && way < 2; way++)
        for (int step = 1; step < t->ranks; step++) { /* not all to the same rank first */
            const int r = (t->rank + step) % t->ranks;
            const transport_part part = way ? to[r] : from[r];
            for (size_t at = 0; at < part.bytes; at += MOST) {
                const int bytes = (int)(part.bytes - at < MOST ? part.bytes - at : MOST);
                char *data = (char *)part.data + at;
                if (way)
                    MPI_Isend(data, bytes, MPI_BYTE, r, 0, MPI_COMM_WORLD, &wait[n++]);
                else
                    MPI_Irecv(data, bytes, MPI_BYTE, r, 0, MPI_COMM_WORLD, &wait[n++]);
            }
        }
    if (wait)
        MPI_Waitall(n, wait, MPI_STATUSES_IGNORE);
    free(wait);
    return wait;
}

static void end(transport *t, int status)
{
    (void)t;
    MPI_Abort(MPI_COMM_WORLD, status);
}

transport *transport_world(void)
{
    static transport world = {.exchange = exchange, .end = end};
    if (world.ranks == 0) {
        MPI_Init(NULL, NULL);
        MPI_Comm_rank(MPI_COMM_WORLD, &world.rank);
        MPI_Comm_size(MPI_COMM_WORLD, &world.ranks);
        will_open();
    }
    return &world;
}

void transport_leave(void)
{
    MPI_Finalize();
    transport_will(NULL);
}
