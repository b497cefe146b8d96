/* A program without NCCL. */
#include "wire.h"

const bool wire_has_nccl = false;

const char *wire_open_nccl(wire *w, transport *world)
{
    (void)w, (void)world;
    return "this program has no NCCL";
}

void wire_close_nccl(wire *w)
{
    (void)w;
}
