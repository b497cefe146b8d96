/* The tensors of one attention call, read from files. Every tensor spells its sizes with the same
 * letters; the first file that mentions a letter sets it, the others have to agree. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../internal.h"
#include "../stages.h"
#include "ranks.h"

#define N_LETTERS CLI_N_SIZES
static const char letters[N_LETTERS + 1] = "TSHGdikRtPbMC";

/* How the arrays of stages.def lie in the files: as there, or of a step over pages with the queries of each request in
 * a row, and keys in pages whose heads come first. */
typedef enum arrangement { WHOLE, STEP, PAGES } arrangement;
static const struct {
    array_id array;
    arrangement as;
    const char *sizes; /* of one that is no array of stages.def; int32 */
    bool any; /* NaN too: their output is judged whatever it holds, and of pages only some tokens are read */
} spec[CLI_N_TENSORS] = {
    [CLI_Q] = {ARRAY_Q},
    [CLI_K] = {ARRAY_K},
    [CLI_V] = {ARRAY_V},
    [CLI_QI] = {ARRAY_QI},
    [CLI_KI] = {ARRAY_KI},
    [CLI_IDS] = {ARRAY_IDS},
    [CLI_O] = {ARRAY_O, .any = true},
    [CLI_DOUT] = {ARRAY_DOUT},
    [CLI_CU_Q] = {.sizes = "C"},
    [CLI_CU_KV] = {.sizes = "C"},
    [CLI_LEN_Q] = {.sizes = "R"},
    [CLI_LEN_KV] = {.sizes = "R"},
    [CLI_STEP_Q] = {ARRAY_Q, STEP},
    [CLI_STEP_QI] = {ARRAY_QI, STEP},
    [CLI_K_PAGES] = {ARRAY_K, PAGES, .any = true},
    [CLI_V_PAGES] = {ARRAY_V, PAGES, .any = true},
    [CLI_KI_PAGES] = {ARRAY_KI, PAGES, .any = true},
    [CLI_TABLE] = {.sizes = "RM"},
    [CLI_LENS] = {.sizes = "R"},
};

/* A letter a dimension. */
static void spell(int t, char sizes[static 8])
{
    const char *c = spec[t].sizes ? spec[t].sizes : array_sizes(spec[t].array);
    for (; *c; c++) {
        if (spec[t].as == PAGES && !c[1])
            *sizes++ = 'b';
        if (spec[t].as == STEP && *c == 'T')
            *sizes++ = 'R', *sizes++ = 't';
        else
            *sizes++ = (char)(spec[t].as == PAGES && *c == 'S' ? 'P' : *c);
    }
    *sizes = 0;
}

static npy_type type_of(int t)
{
    return spec[t].sizes || array_element(spec[t].array) == ELEMENT_INTEGER ? NPY_I32 : NPY_F32;
}

static const char *letter_name(char letter)
{
    return letter == 'C'   ? "R+1"
           : letter == 'P' ? "P"
           : letter == 'b' ? "page"
           : letter == 'M' ? "max_pages"
                           : msa_name_of_letter(letter);
}

/* "[T,Hq,dh]" */
static void print_layout(const char *sizes, char text[static 96])
{
    int at = 0;
    for (int i = 0; sizes[i]; i++)
        at += snprintf(text + at, (size_t)(96 - at), "%s%s", i ? "," : "[", letter_name(sizes[i]));
    snprintf(text + at, (size_t)(96 - at), "]");
}

static void print_sizes(const npy_array *a, char text[static 96])
{
    int at = snprintf(text, 96, "[");
    for (int i = 0; i < a->ndim; i++)
        at += snprintf(text + at, (size_t)(96 - at), "%s%lld", i ? "," : "", (long long)a->dim[i]);
    snprintf(text + at, (size_t)(96 - at), "]");
}

/* Enters the sizes of tensor t into the table, or finds the one that contradicts it. */
static int enter_sizes(const char *command, const cli_tensors *in, int t, cli_size_table *table)
{
    const npy_array *a = &in->array[t];
    char sizes[8], layout[96], found[96], other[96];
    spell(t, sizes);
    print_layout(sizes, layout);
    print_sizes(a, found);
    for (int i = 0; i < a->ndim; i++) {
        int at = (int)(strchr(letters, sizes[i]) - letters);
        if (a->dim[i] < 1)
            return cli_fail(command, "%s: expected %s with every size at least 1, found %s", in->path[t],
                            layout, found);
        if (a->dim[i] > INT_MAX && !strchr("TS", letters[at]))
            return cli_fail(command, "%s: expected %s with heads and widths below 2^31, found %s",
                            in->path[t], layout, found);
        if (table->from[at] < 0) {
            table->value[at] = a->dim[i];
            table->from[at] = t;
        } else if (table->value[at] != a->dim[i]) {
            print_sizes(&in->array[table->from[at]], other);
            return cli_fail(command, "%s: expected %s with %s = %lld as in %s %s, found %s", in->path[t],
                            layout, letter_name(letters[at]), (long long)table->value[at],
                            in->path[table->from[at]], other, found);
        }
    }
    return 0;
}

int64_t cli_size_or(const cli_size_table *table, char letter, int64_t otherwise)
{
    int at = (int)(strchr(letters, letter) - letters);
    return table->from[at] < 0 ? otherwise : table->value[at];
}

/* ---- Sequences ------------------------------------------------------------------------------------ */

static const int32_t *integers(const cli_tensors *t, cli_tensor which)
{
    return t->path[which] ? t->array[which].data : NULL;
}

/* Names the first place that does not rise from 0 to `last`. */
static int check_starts(const char *command, const cli_tensors *t, cli_tensor which, int n, int64_t last)
{
    const int32_t *at = integers(t, which);
    for (int r = 0; r <= n; r++) {
        const int64_t least = r == n ? last : r ? at[r - 1] : 0, most = r ? last : 0;
        if (at[r] < least || at[r] > most)
            return cli_fail(command, "%s: expected places that rise from 0 to %lld, found %d at [%d]",
                            t->path[which], (long long)last, at[r], r);
    }
    return 0;
}

/* Lengths that have room between the places. */
static int check_lengths(const char *command, const cli_tensors *t, cli_tensor which, int n,
                         const int32_t *at)
{
    const int32_t *length = integers(t, which);
    for (int r = 0; length && r < n; r++)
        if (length[r] < 0 || length[r] > at[r + 1] - at[r])
            return cli_fail(command, "%s: expected at [%d] a length from 0 to %d, found %d", t->path[which],
                            r, at[r + 1] - at[r], length[r]);
    return 0;
}

/* Puts what --cu-q and those beside it say into the shape. */
static int add_sequences(const char *command, cli_tensors *t, const cli_size_table *table)
{
    static const struct {
        const char *option, *wants;
        cli_tensor which, other;
    } needs[] = {{"--cu-q", "--cu-kv", CLI_CU_Q, CLI_CU_KV},
                 {"--cu-kv", "--cu-q", CLI_CU_KV, CLI_CU_Q},
                 {"--len-q", "--cu-q", CLI_LEN_Q, CLI_CU_Q},
                 {"--len-kv", "--cu-q", CLI_LEN_KV, CLI_CU_Q}};
    msa_shape *s = &t->shape;
    for (size_t i = 0; i < sizeof needs / sizeof *needs; i++)
        if (t->path[needs[i].which] && !t->path[needs[i].other])
            return cli_fail(command, "%s: expected it with %s, found it alone", needs[i].option,
                            needs[i].wants);
    if (!t->path[CLI_CU_Q])
        return 0;
    const int n = (int)cli_size_or(table, 'C', 1) - 1;
    const int64_t lengths = cli_size_or(table, 'R', n);
    if (n < 1 || lengths != n)
        return cli_fail(command, "%s: expected %s, found %d places", t->path[CLI_CU_Q],
                        n < 1 ? "a sequence or more" : "one place more than there are lengths", n + 1);
    s->n_seqs = n;
    s->cu_q = integers(t, CLI_CU_Q), s->cu_kv = integers(t, CLI_CU_KV);
    s->len_q = integers(t, CLI_LEN_Q), s->len_kv = integers(t, CLI_LEN_KV);
    int bad = check_starts(command, t, CLI_CU_Q, n, s->n_q);
    if (!bad)
        bad = check_starts(command, t, CLI_CU_KV, n, s->n_kv);
    if (!bad)
        bad = check_lengths(command, t, CLI_LEN_Q, n, s->cu_q);
    return bad ? bad : check_lengths(command, t, CLI_LEN_KV, n, s->cu_kv);
}

/* Of a sequence that has more queries than keys. */
static int refuse_causal(const char *command, const cli_tensors *t)
{
    const msa_shape *s = &t->shape;
    const char *queries = t->path[CLI_Q] ? t->path[CLI_Q] : t->path[CLI_QI];
    const char *keys = t->path[CLI_K] ? t->path[CLI_K] : t->path[CLI_KI];
    char which[32] = "";
    int r = 0;
    while (r + 1 < msa_n_seqs(s) && msa_get_seq(s, r).n_q <= msa_get_seq(s, r).n_kv)
        r++;
    if (s->cu_q)
        snprintf(which, sizeof which, "sequence %d: ", r);
    return cli_fail(command, "%s: %sexpected at most as many queries as %s has keys, %lld, found %lld",
                    queries, which, keys, (long long)msa_get_seq(s, r).n_kv,
                    (long long)msa_get_seq(s, r).n_q);
}

static int build_shape(const char *command, cli_tensors *t, const cli_size_table *table)
{
    msa_shape *s = &t->shape;
    int64_t width = cli_size_or(table, 'k', 0);
    if (t->topk && width && t->topk != width)
        return cli_fail(command, "--topk: expected %lld, the width of %s, found %lld", (long long)width,
                        t->path[CLI_IDS], (long long)t->topk);
    *s = (msa_shape){.n_q = cli_size_or(table, 'T', 1),
                     .n_kv = cli_size_or(table, 'S', 1),
                     .n_kv_heads = (int)cli_size_or(table, 'G', 1),
                     .d_head = (int)cli_size_or(table, 'd', 1),
                     .d_index = (int)cli_size_or(table, 'i', 1),
                     .block = (int)t->block,
                     .topk = (int)(width     ? width
                                   : t->topk ? t->topk
                                             : 16),
                     .n_seqs = 1};
    s->n_heads = (int)cli_size_or(table, 'H', s->n_kv_heads);
    const int bad = add_sequences(command, t, table);
    if (bad)
        return bad;
    const char *queries = t->path[CLI_Q] ? t->path[CLI_Q] : t->path[CLI_QI];
    switch (msa_check_shape(s)) {
    case MSA_OK:
        return 0;
    case MSA_ERR_CAUSAL:
        return refuse_causal(command, t);
    case MSA_ERR_HEADS:
        return cli_fail(command, "%s: expected a multiple of the %d heads of %s, found %d", queries,
                        s->n_kv_heads, t->path[CLI_K] ? t->path[CLI_K] : t->path[CLI_KI], s->n_heads);
    default:
        return cli_fail(command, "%s: expected sizes that memory can hold, found T %lld, S %lld, k %d",
                        queries, (long long)s->n_q, (long long)s->n_kv, s->topk);
    }
}

/* ---- Ids ------------------------------------------------------------------------------------------ */

static int by_value(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

bool cli_sort_ids(int32_t *row, int k)
{
    int n = 0, falls = 0;
    for (; n < k && row[n] != -1; n++)
        falls += n > 0 && row[n] < row[n - 1];
    if (falls)
        qsort(row, (size_t)n, sizeof *row, by_value);
    return falls > 0;
}

/* Sorts and checks the ids row by row, each as a call with a single head, to name the first bad one. */
int cli_check_ids(const char *command, cli_tensors *t)
{
    const msa_shape *s = &t->shape;
    bool sorted = false;
    for (int at = 0; at < s->n_kv_heads * msa_n_seqs(s); at++) {
        const int r = at / msa_n_seqs(s);
        const msa_seq seq = msa_get_seq(s, at % msa_n_seqs(s));
        const int64_t rows = padded_seq(s, at % msa_n_seqs(s)).n_q;
        int32_t *ids = (int32_t *)t->array[CLI_IDS].data + (r * s->n_q + seq.q0) * s->topk;
        for (int64_t i = 0; i < rows; i++, ids += s->topk) {
            const int32_t first = ids[0];
            const int64_t last = i < seq.n_q ? position(&seq, i) / s->block : -1;
            sorted |= cli_sort_ids(ids, s->topk);
            const bool valid = valid_row(ids, s->topk, last);
            if (!valid && last < 0)
                return cli_fail(
                    command,
                    "%s: expected -1 alone in row [%d,%lld], of padding, found a row that begins with %d",
                    t->path[CLI_IDS], r, (long long)(seq.q0 + i), first);
            if (!valid)
                return cli_fail(command,
                                "%s: expected in row [%d,%lld] different blocks from 0 to %lld, then -1, "
                                "found a row that begins with %d",
                                t->path[CLI_IDS], r, (long long)(seq.q0 + i), (long long)last, first);
        }
    }
    char *note = t->note[CLI_IDS];
    if (sorted && *note)
        snprintf(note + strlen(note), IO_ERR - strlen(note), ", rows sorted");
    else if (sorted)
        io_fail(note, t->path[CLI_IDS], "rows sorted");
    return 0;
}

/* ---- Files ---------------------------------------------------------------------------------------- */

/* One that stays where it is, which the first rank reads for all; the others trust it, and later compare their parts. */
static bool open_dealt(cli_tensors *t, int i, int ndim, io_error err)
{
    const io_source *x = &t->source[i];
    npy_array *a = &t->array[i];
    if (!io_open_source(t->path[i], type_of(i), ndim, &t->source[i], err))
        return false;
    *a = (npy_array){.type = x->type, .ndim = x->stored.ndim, .count = x->stored.count};
    memcpy(a->dim, x->stored.dim, sizeof a->dim);
    return !cli_is_first() || io_check_source(x, !spec[i].any, t->note[i], err);
}

int cli_read_files(const char *command, cli_tensors *t, cli_size_table *table)
{
    for (int i = 0; i < N_LETTERS; i++)
        table->from[i] = -1;
    for (int i = 0; i < CLI_N_TENSORS; i++) {
        io_error err;
        char sizes[8];
        if (!t->path[i])
            continue;
        spell(i, sizes);
        const int ndim = (int)strlen(sizes);
        const bool ok =
            t->dealt && type_of(i) == NPY_F32
                ? open_dealt(t, i, ndim, err)
                : io_read_tensor(t->path[i], type_of(i), ndim, !spec[i].any, &t->array[i], t->note[i], err);
        if (!ok)
            return cli_fail(command, "%s", err);
        int bad = enter_sizes(command, t, i, table);
        if (bad)
            return bad;
    }
    return 0;
}

void cli_say_notes(const char *command, const cli_tensors *t)
{
    for (int i = 0; i < CLI_N_TENSORS; i++)
        if (t->note[i][0])
            fprintf(stderr, "msa %s: %s\n", command, t->note[i]);
}

int cli_read_quietly(const char *command, cli_tensors *t)
{
    cli_size_table table;
    int bad = cli_read_files(command, t, &table);
    if (!bad)
        bad = build_shape(command, t, &table);
    if (!bad && t->path[CLI_IDS])
        bad = cli_check_ids(command, t);
    return bad;
}

int cli_read_tensors(const char *command, cli_tensors *t)
{
    int bad = cli_read_quietly(command, t);
    if (!bad)
        cli_say_notes(command, t);
    return bad;
}

void cli_free_tensors(cli_tensors *t)
{
    for (int i = 0; i < CLI_N_TENSORS; i++)
        if (t->path[i])
            npy_free(&t->array[i]), io_close_source(&t->source[i]);
}

const float *cli_floats(const cli_tensors *t, cli_tensor which)
{
    return t->path[which] ? t->array[which].data : NULL;
}
