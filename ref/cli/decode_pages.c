/* Pages of `msa decode`: of a file they have the heads outside, [P,Hkv,page,dh]; of the library the tokens (msa.h). */
#include "decode_pages.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ranks_files.h"

int pages_check(const char *command, const cli_tensors *t, const msa_pages *p)
{
    const msa_shape *s = &t->shape;
    const msa_seq first = msa_get_seq(s, 0);
    const int64_t page = p->page, width = first.n_kv / page, n_q = first.n_q;
    for (int r = 0; r < msa_n_seqs(s); r++) {
        const int32_t length = p->lens[r], *row = p->table + r * width;
        const int64_t needed = (length + page - 1) / page;
        if (length < 0 || (length > 0 && length < n_q))
            return cli_fail(command,
                            "%s: request %d: expected 0 tokens, or %lld new ones and those before, found %d",
                            t->path[CLI_LENS], r, (long long)n_q, length);
        if (length > first.n_kv)
            return cli_fail(command,
                            "%s: request %d: expected at most the %lld tokens that fit into a row of %s, "
                            "found %d: they take %lld pages of %lld, and a row has %lld",
                            t->path[CLI_LENS], r, (long long)first.n_kv, t->path[CLI_TABLE], length,
                            (long long)needed, (long long)page, (long long)width);
        for (int64_t b = 0; b < needed; b++)
            if (row[b] == -1)
                return cli_fail(
                    command,
                    "%s: request %d: expected the %lld pages that its %d tokens of %s take, found "
                    "%lld and then -1",
                    t->path[CLI_TABLE], r, (long long)needed, length, t->path[CLI_LENS], (long long)b);
            else if (row[b] < 0 || row[b] >= p->n_pages)
                return cli_fail(command, "%s: expected in [%d,%lld] a page from 0 to %lld, found %d",
                                t->path[CLI_TABLE], r, (long long)b, (long long)(p->n_pages - 1), row[b]);
    }
    return 0;
}

static deal_source keys_in_memory(const cli_tensors *t, const msa_pages *p)
{
    return (deal_source){.s = &t->shape,
                         .p = p,
                         .k = cli_floats(t, CLI_K_PAGES),
                         .v = cli_floats(t, CLI_V_PAGES),
                         .ki = cli_floats(t, CLI_KI_PAGES)};
}

int pages_turn(const char *command, const msa_shape *s, const msa_pages *p, npy_array *x)
{
    const int64_t heads = s->n_kv_heads, page = p->page, d = s->d_head;
    float *const to = cli_alloc(command, x->count * sizeof *to), *const from = x->data;
    if (!to)
        return 2;
    for (int64_t at = 0; at < p->n_pages; at++)
        for (int64_t r = 0; r < heads; r++)
            for (int64_t j = 0; j < page; j++)
                memcpy(to + ((at * page + j) * heads + r) * d, from + ((at * heads + r) * page + j) * d,
                       (size_t)d * sizeof *to);
    free(from);
    x->data = to;
    return 0;
}

/* A stretch of tokens after the other; of files a page's is read at a time. */
static int check_finite(const char *command, const cli_tensors *t, const msa_pages *p, deal_array which)
{
    const msa_shape *s = &t->shape;
    const int ndim = which == DEAL_KI ? 1 : 2;
    const int64_t heads[] = {s->n_kv_heads, s->d_head}, index[] = {s->d_index}, page = p->page,
                  *dim = which == DEAL_KI ? index : heads, width = ndim == 2 ? dim[0] * dim[1] : dim[0];
    ranks_files files = {.t = t, .paged = true};
    const deal_source from = t->dealt ? ranks_keys(&files, p) : keys_in_memory(t, p);
    float *room = cli_alloc(command, (size_t)(page * width) * sizeof *room);
    int bad = room ? 0 : 2;
    for (int r = 0; r < msa_n_seqs(s); r++) {
        const request at = get_request(s, p, r);
        for (int64_t j = 0, n; j < p->lens[r] && !bad; j += n) {
            const int64_t row = key_row(&at, j);
            n = keys_together(&at, j, p->lens[r]);
            const float *x = deal_tokens(&from, which, row, n, room);
            if (!x)
                bad = cli_fail(command, "%s", files.err);
            for (int64_t i = 0; i < n && !bad; i++) {
                char token[64];
                io_error err;
                snprintf(token, sizeof token, "page %lld, token %lld: ", (long long)(row / page),
                         (long long)(row % page + i));
                if (!io_check_finite(t->path[CLI_K_PAGES + which], token, ndim, dim, x + i * width, 0,
                                     (size_t)width, err))
                    bad = cli_fail(command, "%s", err);
            }
        }
    }
    free(room);
    return bad;
}

int pages_check_values(const char *command, const cli_tensors *t, const msa_pages *p)
{
    int bad = 0;
    for (int which = DEAL_K; which <= DEAL_KI && !bad; which++)
        bad = check_finite(command, t, p, (deal_array)which);
    return bad;
}
