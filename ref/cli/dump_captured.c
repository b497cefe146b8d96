/* The tensors of `msa dump --captured`, a layer at a time. */
#include <stdio.h>

#include "dump.h"

static bool same_shape(const msa_shape *a, const msa_shape *b)
{
    return a->n_q == b->n_q && a->n_kv == b->n_kv && a->n_heads == b->n_heads &&
           a->n_kv_heads == b->n_kv_heads && a->d_head == b->d_head && a->d_index == b->d_index;
}

int dump_read_captured(const char *command, dump_captured *c, int layer)
{
    static const struct {
        cli_tensor tensor;
        const char *name;
    } file[] = {{CLI_Q, "q"}, {CLI_K, "k"}, {CLI_QI, "qi"}, {CLI_KI, "ki"}};
    const msa_shape before = c->t.shape;
    cli_free_tensors(&c->t);
    for (int i = 0; i < 4; i++) {
        snprintf(c->path[i], sizeof c->path[i], "%s/layer%02d/%s.npy", c->dir, layer, file[i].name);
        c->t.path[file[i].tensor] = c->path[i];
    }
    int bad = cli_read_tensors(command, &c->t);
    if (!bad && before.n_q && !same_shape(&before, &c->t.shape))
        bad = cli_fail(command,
                       "--captured %s/layer%02d: expected the sizes of the layers before it, found others",
                       c->dir, layer);
    return bad;
}
