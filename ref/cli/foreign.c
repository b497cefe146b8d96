/* Block ids that another implementation wrote. Public implementations disagree on the layout and on the
 * order of the ids, so both are found out instead of prescribed. */
#include "foreign.h"

#include <limits.h>
#include <math.h>
#include <string.h>

int foreign_match(const char *command, const char *path, const char *layout, const msa_shape *s,
                  foreign_ids *f)
{
    const int64_t *dim = f->array.dim, groups = s->n_kv_heads;
    bool htk = dim[0] == groups && dim[1] == s->n_q && (!layout || strcmp(layout, "htk") == 0);
    bool thk = dim[0] == s->n_q && dim[1] == groups && (!layout || strcmp(layout, "thk") == 0);
    f->token_major = thk && !htk;
    f->ambiguous = thk && htk;
    if (htk || thk)
        return 0;
    return cli_fail(command, "%s: expected %s%s%s with Hkv %lld and T %lld, found [%lld,%lld,%lld]", path,
                    layout && strcmp(layout, "thk") == 0 ? "" : "[Hkv,T,k]", layout ? "" : " or ",
                    layout && strcmp(layout, "htk") == 0 ? "" : "[T,Hkv,k]", (long long)groups,
                    (long long)s->n_q, (long long)dim[0], (long long)dim[1], (long long)dim[2]);
}

int foreign_read(const char *command, const char *path, const char *layout, cli_tensors *t, foreign_ids *f)
{
    io_error err;
    if (layout && strcmp(layout, "htk") != 0 && strcmp(layout, "thk") != 0)
        return cli_fail(command, "--layout: expected htk or thk, found '%s'", layout);
    if (!io_read_tensor(path, NPY_I32, 3, true, &f->array, t->note[CLI_IDS], err))
        return cli_fail(command, "%s", err);
    const int64_t width = f->array.dim[2];
    if (width < 1 || width > INT_MAX)
        return cli_fail(command, "%s: expected 1 to %d ids a row, found %lld", path, INT_MAX,
                        (long long)width);
    if (t->topk && t->topk != width)
        return cli_fail(command, "%s: expected rows of --topk %lld ids, found %lld", path, (long long)t->topk,
                        (long long)width);
    t->topk = width;
    int bad = cli_read_quietly(command, t);
    if (!bad)
        bad = foreign_match(command, path, layout, &t->shape, f);
    if (!bad)
        cli_say_notes(command, t);
    return bad;
}

const int32_t *foreign_row(const foreign_ids *f, const msa_shape *s, int r, int64_t i)
{
    int64_t row = f->token_major ? i * s->n_kv_heads + r : (int64_t)r * s->n_q + i;
    return (const int32_t *)f->array.data + row * s->topk;
}

/* The ids before the first -1. */
static int count_ids(const int32_t *row, int k)
{
    int n = 0;
    while (n < k && row[n] != -1)
        n++;
    return n;
}

void foreign_sort(const int32_t *row, int k, int32_t *ids)
{
    memcpy(ids, row, (size_t)k * sizeof *ids);
    cli_sort_ids(ids, k);
}

/* Falling scores, near-ties aside, and the local block: its place does not depend on its score. */
static bool scores_fall(const int32_t *row, int n, const double *score, const double *rounding, int64_t local)
{
    int32_t lowest = -1;
    for (int slot = 0; slot < n; slot++) {
        const int32_t b = row[slot];
        if (b < 0 || b >= local)
            continue;
        if (lowest >= 0 && !(score[b] - score[lowest] <= 2 * fmax(rounding[b], rounding[lowest])))
            return false;
        if (lowest < 0 || score[b] < score[lowest])
            lowest = b;
    }
    return true;
}

void foreign_note_order(foreign_order *o, const int32_t *row, int k, const double *score,
                        const double *rounding, int64_t local)
{
    int n = count_ids(row, k);
    for (int slot = 1; slot < n; slot++)
        o->ascending &= row[slot] > row[slot - 1];
    o->by_score = o->by_score && scores_fall(row, n, score, rounding, local);
    o->local_last &= n > 0 && row[n - 1] == local;
    o->local_first &= n > 0 && row[0] == local;
}
