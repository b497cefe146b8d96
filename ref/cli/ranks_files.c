/* A rank's rows of tensors in files. */
#include "ranks_files.h"

#include <stdlib.h>
#include <string.h>

static bool read_part(ranks_files *f, cli_tensor which, int64_t at, int64_t n, float *to)
{
    size_t rounded = 0; /* the note has it, of all */
    const io_source *source = &f->t->source[which];
    f->bytes += (double)n * (double)io_element_bytes(source->stored.element);
    return io_read_part(source, (size_t)at, (size_t)n, to, &rounded, f->err);
}

/* [Hkv,page,dh] of a file to [n,Hkv,dh]. */
static bool read_from_page(ranks_files *f, cli_tensor which, int64_t row, int64_t n, float *to)
{
    const int64_t *dim = f->t->source[which].stored.dim, heads = dim[1], page = dim[2], d = dim[3];
    float *head = malloc((size_t)(n * d) * sizeof *head);
    bool ok = head || io_fail(f->err, f->t->path[which], "no memory for a page");
    for (int64_t r = 0; ok && r < heads; r++) {
        ok = read_part(f, which, ((row / page * heads + r) * page + row % page) * d, n * d, head);
        for (int64_t j = 0; ok && j < n; j++)
            memcpy(to + (j * heads + r) * d, head + j * d, (size_t)d * sizeof *to);
    }
    free(head);
    return ok;
}

static const float *read_keys(void *files, deal_array which, int64_t row, int64_t n, float *room)
{
    static const cli_tensor tensor[2][3] = {{CLI_K, CLI_V, CLI_KI}, {CLI_K_PAGES, CLI_V_PAGES, CLI_KI_PAGES}};
    ranks_files *f = files;
    const cli_tensor of = tensor[f->paged][which];
    const msa_shape *s = &f->t->shape;
    const int64_t width = which == DEAL_KI ? s->d_index : (int64_t)s->n_kv_heads * s->d_head;
    const bool ok = f->paged && which != DEAL_KI ? read_from_page(f, of, row, n, room)
                                                 : read_part(f, of, row * width, n * width, room);
    return ok ? room : NULL;
}

deal_source ranks_keys(ranks_files *f, const msa_pages *p)
{
    return (deal_source){.s = &f->t->shape,
                         .p = p,
                         .read = read_keys,
                         .files = f,
                         .index = f->t->path[f->paged ? CLI_KI_PAGES : CLI_KI] != NULL};
}

bool ranks_take(ranks_files *f, cli_tensor which, const deal_rows *rows, int home, float *to)
{
    const int64_t width = (int64_t)f->t->array[which].count / f->t->shape.n_q;
    for (int64_t x = rows->first[home], end; x < rows->first[home + 1]; x = end) {
        for (end = x + 1; end < rows->first[home + 1] && rows->row[end] == rows->row[end - 1] + 1;)
            end++;
        if (!read_part(f, which, rows->row[x] * width, (end - x) * width, to))
            return false;
        to += (end - x) * width;
    }
    return true;
}
