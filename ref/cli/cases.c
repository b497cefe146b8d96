/* Names of kernels and shapes on the command line. */
#include "cases.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "../judge/inputs.h"
#include "../table/table.h"

/* ---- Names -------------------------------------------------------------------------------------- */

bool case_means(const char *word, const msa_kernel *kernel)
{
    return strcmp(word, msa_stage_name(kernel->stage)) == 0 || table_find(word, kernel->backend) == kernel;
}

int case_check_names(const char *command, const cli_list *names)
{
    for (int i = 0; i < names->n; i++) {
        const msa_kernel *kernel;
        int k = 0;
        while ((kernel = table_at(k)) != NULL && !case_means(names->item[i], kernel))
            k++;
        if (!kernel)
            return cli_fail(command, "expected a STAGE/NAME or STAGE that 'msa kernels' lists, found '%s'",
                            names->item[i]);
    }
    return 0;
}

/* ---- Shapes ------------------------------------------------------------------------------------- */

/* A shape of the table by its name, which is the only way to sequences of unequal lengths. */
static bool find_shape(const char *name, msa_shape *s)
{
    for (int i = 0; i < inputs_n_all_shapes; i++) {
        char known[INPUTS_NAME];
        inputs_shape_name(&inputs_shapes[i], known);
        if (strcmp(known, name) == 0) {
            *s = inputs_shapes[i];
            return true;
        }
    }
    return false;
}

/* Reads one word, "T=13"; *end is where it ends, or 0. */
static void read_word(const char *text, msa_shape *s, int *end)
{
    long long n_q, n_kv;
    int a, b;
    *end = 0;
    if (sscanf(text, "T=%10lld%n", &n_q, end) == 1)
        s->n_q = n_q;
    else if (sscanf(text, "S=%10lld%n", &n_kv, end) == 1)
        s->n_kv = n_kv;
    else if (sscanf(text, "heads=%6d:%6d%n", &a, &b, end) == 2)
        s->n_heads = a, s->n_kv_heads = b;
    else if (sscanf(text, "width=%6d:%6d%n", &a, &b, end) == 2)
        s->d_head = a, s->d_index = b;
    else if (sscanf(text, "block=%9d%n", &a, end) == 1)
        s->block = a;
    else if (sscanf(text, "topk=%9d%n", &a, end) == 1)
        s->topk = a;
    else if (sscanf(text, "seqs=%4d%n", &a, end) == 1)
        s->n_seqs = a;
    if (*end && text[*end] && text[*end] != ' ')
        *end = 0;
}

static bool parse_shape(const char *text, msa_shape *s)
{
    bool given[UCHAR_MAX + 1] = {false}; /* words, by their first letters, which differ */
    int end = 1;
    for (text += strspn(text, " "); *text && end > 0; text += strspn(text, " ")) {
        const unsigned char word = (unsigned char)*text;
        read_word(text, s, &end);
        if (given[word])
            end = 0;
        given[word] = true;
        text += end;
    }
    return end > 0;
}

msa_shape case_usual_shape(const msa_device *device)
{
    if (device && device == msa_engine())
        return (msa_shape){64, 64, 16, 1, 128, 128, 32, 2, 1, NULL, NULL, NULL, NULL};
    return (msa_shape){4096, 4096, 64, 4, 128, 128, 128, 16, 1, NULL, NULL, NULL, NULL};
}

int case_read_shape(const char *command, const char *text, msa_shape *s)
{
    if (find_shape(text, s))
        return 0;
    if (!*text || !parse_shape(text, s))
        return cli_fail(
            command, "--shape: expected the form 'T=13 S=45 heads=4:2 width=16:8 block=8 topk=3', found '%s'",
            text);
    return 0;
}

#define MAX_ELEMENTS (INT64_C(1) << 26)

int case_check_shape(const char *command, const char *text, const msa_shape *s)
{
    static const char *const tensors[] = {"THd", "SGd", "TGi", "Si", "GTB", "GTk"};
    int64_t dim[IO_MAX_DIMS];
    const msa_status status = msa_check_shape(s);
    if (status != MSA_OK)
        return cli_fail(command, "--shape: expected a valid shape, found '%s': %s", text,
                        msa_strerror(status));
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++)
        if (cli_sizes(s, tensors[i], dim) > MAX_ELEMENTS)
            return cli_fail(command, "--shape: expected tensors of at most %lld elements, found more in '%s'",
                            (long long)MAX_ELEMENTS, text);
    const int64_t width =
        (int64_t)s->n_kv_heads * s->d_head; /* keys of a step of generation lie in whole blocks */
    if (s->block > MAX_ELEMENTS / msa_n_seqs(s) / msa_n_blocks(s) / width)
        return cli_fail(command,
                        "--shape: expected pages of at most %lld elements in all, found more in '%s'",
                        (long long)MAX_ELEMENTS, text);
    return 0;
}

int case_read_distribution(const char *command, const char *name, selection_kind *kind)
{
    if (selection_named(name, kind))
        return 0;
    return cli_fail(command, "--distribution: expected random, hot, local or structured, found '%s'", name);
}
