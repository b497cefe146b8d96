/* A program without NCCL. */
#include "wire.h"

const char *wire_open_nccl(wire *w, transport *world)
{
    (void)w, (void)world;
    return "this program has no NCCL: build/msa-mpi has, where make cuda found nccl.h and MPI";
}

void wire_close_nccl(wire *w)
{
    (void)w;
}
