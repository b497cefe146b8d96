/* msa cost: what MSA saves, by context length: the cost model as a table. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

#define MAX_LENGTH ((int64_t)1 << 40)
#define MAX_ROWS 64
#define CSV_LINE 320

typedef struct lengths {
    int n;
    int64_t value[MAX_ROWS];
} lengths;

/* "32768", "32K" (2^10) or "1M" (2^20), up to a comma or the end; 0 if it is none of these. */
static int64_t read_length(const char **text)
{
    char *end;
    if (**text < '0' || **text > '9')
        return 0; /* strtoll would take blanks and signs */
    errno = 0;
    long long n = strtoll(*text, &end, 10);
    int64_t unit = *end == 'K' ? 1 << 10 : *end == 'M' ? 1 << 20 : 1;
    end += unit > 1;
    if (errno || (*end && *end != ',') || n < 1 || n > MAX_LENGTH / unit)
        return 0;
    *text = *end ? end + 1 : NULL;
    return n * unit;
}

static int read_lengths(const char *command, const char *list, lengths *l)
{
    for (const char *at = list; at;) {
        int64_t n = l->n < MAX_ROWS ? read_length(&at) : 0;
        if (!n)
            return cli_fail(command,
                            "--n: expected up to %d lengths from 1 to 2^40 such as 32K,1M, found '%s'",
                            MAX_ROWS, list);
        l->value[l->n++] = n;
    }
    return 0;
}

static void print_length(int64_t n)
{
    char text[32];
    if (n % (1 << 20) == 0)
        snprintf(text, sizeof text, "%lldM", (long long)(n >> 20));
    else if (n % (1 << 10) == 0)
        snprintf(text, sizeof text, "%lldK", (long long)(n >> 10));
    else
        snprintf(text, sizeof text, "%lld", (long long)n);
    printf("%10s", text);
}

static void print_table(const msa_shape *s, const lengths *l)
{
    printf("%d query heads and %d KV heads of %d, index width %d, %d blocks of %d tokens kept\n\n",
           s->n_heads, s->n_kv_heads, s->d_head, s->d_index, s->topk, s->block);
    printf("%10s  %10s  %12s  %17s  %17s  %10s  %7s  %5s\n", "N", "FLOP ratio", "index share",
           "decode byte ratio", "1-byte index keys", "8-bit FLOP", "settled", "bytes");
    for (int i = 0; i < l->n; i++) {
        msa_cost_row row;
        msa_cost(s, l->value[i], &row);
        print_length(l->value[i]);
        printf("  %10.2f  %11.0f%%  %17.2f  %17.1f  %10.2f  %7.2f  %5.1f\n", row.flop_ratio,
               100 * row.index_share, row.bytes_ratio, row.bytes_ratio_8, row.flop_ratio_8,
               row.flop_ratio_exact8, row.bytes_ratio_exact8);
    }
    printf(
        "\nFLOP ratio: dense GQA's attention over MSA's in a causal prefill of N tokens; index share: the "
        "Index\n"
        "Branch's part of MSA's. Decode: bytes of keys and values read for one token, 2 bytes an element.\n"
        "8-bit FLOP: the ratio where index products are 8-bit ones, at twice the rate. Settled, bytes: what\n"
        "is left of it, and of 1-byte keys, where the ids are those of 16 bits: the blocks that 8 bits "
        "leave\n"
        "open are scored again in full.\n");
}

static int write_csv(const char *command, const char *path, const msa_shape *s, const lengths *l)
{
    char text[CSV_LINE * (MAX_ROWS + 1)];
    io_error err;
    if (cli_begin_output(command, "--csv", path))
        return 2;
    int at =
        snprintf(text, sizeof text,
                 "n,flop_gqa,flop_msa,flop_ratio,index_share,bytes_gqa,bytes_msa,bytes_ratio,"
                 "bytes_ratio_1byte_index,flop_ratio_8bit_index,flop_settle,flop_ratio_exact8,bytes_settle,"
                 "bytes_ratio_exact8\n");
    for (int i = 0; i < l->n; i++) {
        msa_cost_row r;
        msa_cost(s, l->value[i], &r);
        at += snprintf(text + at, CSV_LINE,
                       "%lld,%.17g,%.17g,%.6g,%.6g,%.17g,%.17g,%.6g,%.6g,%.6g,%.17g,%.6g,%.17g,%.6g\n",
                       (long long)l->value[i], r.flop_gqa, r.flop_msa, r.flop_ratio, r.index_share,
                       r.bytes_gqa, r.bytes_msa, r.bytes_ratio, r.bytes_ratio_8, r.flop_ratio_8,
                       r.flop_settle, r.flop_ratio_exact8, r.bytes_settle, r.bytes_ratio_exact8);
    }
    if (!io_write_file(path, &(io_chunk){text, (size_t)at}, 1, err))
        return cli_fail(command, "--csv %s", err);
    return 0;
}

int cmd_cost(int argc, char **argv)
{
    const char *list = "32K,64K,128K,256K,512K,1M", *csv = NULL;
    int64_t heads = 64, kv_heads = 4, d_head = 128, d_index = 128, block = 128, topk = 16;
    const cli_option options[] = {
        {"--n", CLI_TEXT, &list, 0, 0, "LIST of context lengths; K is 2^10, M is 2^20"},
        {"--heads", CLI_INT, &heads, 1, 1 << 20, "N query heads"},
        {"--kv-heads", CLI_INT, &kv_heads, 1, 1 << 20, "N key-value heads"},
        {"--d-head", CLI_INT, &d_head, 1, 1 << 20, "N width of a head"},
        {"--d-index", CLI_INT, &d_index, 1, 1 << 20, "N width of an index head"},
        {"--block", CLI_INT, &block, 1, CLI_MAX_BLOCK, "N tokens in a key block"},
        {"--topk", CLI_INT, &topk, 1, CLI_MAX_TOPK, "N blocks kept"},
        {"--csv", CLI_TEXT, &csv, 0, 0, "FILE receives the table with operations and bytes"},
        {0}};
    lengths l = {0};
    int status = cli_parse(argc, argv, options, NULL);
    if (!status)
        status = read_lengths(argv[0], list, &l);
    if (!status && heads % kv_heads != 0)
        status = cli_fail(argv[0], "--heads: expected a multiple of the %lld key-value heads, found %lld",
                          (long long)kv_heads, (long long)heads);
    if (status)
        return status;
    const msa_shape s = {.n_heads = (int)heads,
                         .n_kv_heads = (int)kv_heads,
                         .d_head = (int)d_head,
                         .d_index = (int)d_index,
                         .block = (int)block,
                         .topk = (int)topk};
    if (csv)
        status = cli_check_writable(argv[0], "--csv", csv);
    if (csv && !status)
        status = write_csv(argv[0], csv, &s, &l);
    if (!status)
        print_table(&s, &l);
    if (csv && !status)
        status = cli_commit_outputs(argv[0]);
    return status;
}
