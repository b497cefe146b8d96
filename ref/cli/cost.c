/* msa cost: what MSA saves, by context length, and what it moves between machines: the cost models as tables. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../parallel/traffic.h"
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

static int read_lengths(const char *command, const char *option, const char *list, lengths *l)
{
    for (const char *at = list; at;) {
        int64_t n = l->n < MAX_ROWS ? read_length(&at) : 0;
        if (!n)
            return cli_fail(command,
                            "%s: expected up to %d lengths from 1 to 2^40 such as 32K,1M, found '%s'", option,
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

/* ---- Between machines ------------------------------------------------------------------------------ */

typedef struct machines {
    int64_t ranks; /* 0: this is not asked for */
    double link;   /* GB/s that a rank can send */
    lengths chunk;
} machines;

/* Mean bytes that a rank sends for a layer, 2 an element. */
typedef struct moved {
    double dense_kv, dense_q, kv, kv_8, q;
    double most_kv, most_q; /* the most that a rank sends of kv and of q */
    double held;            /* what it holds for kv */
} moved;

static double mean_kv(traffic_call c)
{
    double bytes[TRAFFIC_N_KINDS];
    traffic_pass_kv(&c, bytes);
    return traffic_sum(bytes) / c.ranks;
}

static double mean_q(traffic_call c)
{
    double bytes[TRAFFIC_N_KINDS];
    traffic_pass_q(&c, traffic_expected_pairs(&c), bytes);
    return traffic_sum(bytes) / c.ranks;
}

static moved move(const msa_shape *s, int64_t ranks, int64_t n, int64_t chunk)
{
    traffic_call msa = {s, (int)ranks, (double)chunk, (double)n, 2, 2, false, 0}, dense = msa, small = msa;
    dense.dense = true;
    small.index_key = 1;
    return (moved){mean_kv(dense), mean_q(dense),         mean_kv(msa),         mean_kv(small),
                   mean_q(msa),    traffic_most_kv(&msa), traffic_most_q(&msa), traffic_held(&msa)};
}

/* Three digits and a unit in ten columns. */
static void print_amount(double x, const char *unit)
{
    static const char prefix[] = {0, 'k', 'M', 'G', 'T', 'P'};
    char text[32];
    int at = 0;
    for (; x >= 999.5 && at < 5; at++)
        x /= 1000;
    snprintf(text, sizeof text, "%.*f %s%s",
             x < 9.995   ? 2
             : x < 99.95 ? 1
                         : 0,
             x, (char[2]){prefix[at]}, unit);
    printf("%10s", text);
}

static void print_crossing(const msa_shape *s, const machines *m, bool dense)
{
    const traffic_call c = {s, (int)m->ranks, 1, 0x1p20, 2, 2, dense, 0};
    printf("%s: queries travel cheaper in chunks of up to %.4f of the keys, %.0f at 1M\n",
           dense ? "dense" : "MSA", traffic_crossing(&c) / c.keys, traffic_crossing(&c));
}

static void print_machines(const msa_shape *s, const lengths *l, const machines *m)
{
    printf(
        "mean bytes that each of %lld ranks sends for one layer, 2 an element, where the queries are the last\n"
        "'chunk' of N tokens, and ms of the rank that sends most, at %g GB/s\n\n",
        (long long)m->ranks, m->link);
    printf("%10s%10s%10s%10s%10s%10s%10s%10s  %-8s%9s%9s\n", "N", "chunk", "dense KV", "dense Q", "MSA KV",
           "8-bit", "MSA Q", "KV holds", "moves", "ms KV", "ms Q");
    for (int i = 0; i < l->n; i++)
        for (int j = 0; j < m->chunk.n; j++) {
            const int64_t n = l->value[i], chunk = m->chunk.value[j];
            if (chunk > n)
                continue;
            const moved x = move(s, m->ranks, n, chunk);
            print_length(n);
            print_length(chunk);
            print_amount(x.dense_kv, "B");
            print_amount(x.dense_q, "B");
            print_amount(x.kv, "B");
            print_amount(x.kv_8, "B");
            print_amount(x.q, "B");
            print_amount(x.held, "B");
            printf("  %-8s%9.3g%9.3g\n", x.q < x.kv ? "queries" : "keys", x.most_kv / m->link / 1e6,
                   x.most_q / m->link / 1e6);
        }
    printf("\n");
    print_crossing(s, m, true);
    print_crossing(s, m, false);
    printf(
        "KV: keys travel to the queries; Q: queries to the owners of the keys, and partial outputs back. KV "
        "holds: what\nevery rank then has for a moment, of the keys of all. That, moves and ms are of MSA "
        "with "
        "16-bit index keys;\n8-bit ones travel in KV alone.\n");
}

static int write_machines(const char *command, const char *path, const msa_shape *s, const lengths *l,
                          const machines *m)
{
    const size_t size = CSV_LINE * (MAX_ROWS * MAX_ROWS + 1);
    char *text = cli_alloc(command, size);
    io_error err;
    if (!text)
        return 2;
    text[0] = 0;
    cli_append(text, size,
               "n,chunk,ranks,dense_kv,dense_q,msa_kv,msa_kv_1byte_index,msa_q,msa_kv_most,msa_q_most,msa_kv_"
               "held\n");
    for (int i = 0; i < l->n; i++)
        for (int j = 0; j < m->chunk.n; j++) {
            const int64_t n = l->value[i], chunk = m->chunk.value[j];
            const moved x = move(s, m->ranks, n, chunk);
            if (chunk <= n)
                cli_append(text, size, "%lld,%lld,%lld,%.17g,%.17g,%.17g,%.17g,%.17g,%.17g,%.17g,%.17g\n",
                           (long long)n, (long long)chunk, (long long)m->ranks, x.dense_kv, x.dense_q, x.kv,
                           x.kv_8, x.q, x.most_kv, x.most_q, x.held);
        }
    int bad = cli_begin_output(command, "--csv", path);
    if (!bad && !io_write_file(path, &(io_chunk){text, strlen(text)}, 1, err))
        bad = cli_fail(command, "--csv %s", err);
    free(text);
    return bad;
}

static int report(const char *command, const char *csv, const msa_shape *s, const lengths *l,
                  const machines *m)
{
    int status = csv ? cli_check_writable(command, "--csv", csv) : 0;
    if (csv && !status)
        status = m->ranks ? write_machines(command, csv, s, l, m) : write_csv(command, csv, s, l);
    if (status)
        return status;
    if (m->ranks)
        print_machines(s, l, m);
    else
        print_table(s, l);
    return csv ? cli_commit_outputs(command) : 0;
}

/* Whether there is a row to print. */
static int check_chunks(const char *command, const char *list, const lengths *l, const lengths *chunk)
{
    int64_t longest = 0, least = chunk->value[0];
    for (int i = 0; i < l->n; i++)
        longest = l->value[i] > longest ? l->value[i] : longest;
    for (int j = 1; j < chunk->n; j++)
        least = chunk->value[j] < least ? chunk->value[j] : least;
    return least <= longest
               ? 0
               : cli_fail(command, "--chunk: expected one of at most the %lld tokens of --n, found '%s'",
                          (long long)longest, list);
}

int cmd_cost(int argc, char **argv)
{
    const char *list = NULL, *chunks = NULL, *csv = NULL;
    int64_t heads = 64, kv_heads = 4, d_head = 128, d_index = 128, block = 128, topk = 16;
    machines m = {.link = 0};
    const cli_option options[] = {
        {"--n", CLI_TEXT, &list, 0, 0,
         "LIST of context lengths; K is 2^10, M is 2^20 (default: 32K to 1M; with --ranks 128K to 16M)"},
        {"--heads", CLI_INT, &heads, 1, 1 << 20, "N query heads"},
        {"--kv-heads", CLI_INT, &kv_heads, 1, 1 << 20, "N key-value heads"},
        {"--d-head", CLI_INT, &d_head, 1, 1 << 20, "N width of a head"},
        {"--d-index", CLI_INT, &d_index, 1, 1 << 20, "N width of an index head"},
        {"--block", CLI_INT, &block, 1, CLI_MAX_BLOCK, "N tokens in a key block"},
        {"--topk", CLI_INT, &topk, 1, CLI_MAX_TOPK, "N blocks kept"},
        {"--ranks", CLI_INT, &m.ranks, 2, 1 << 20, "N machines that share the keys: what moves between them"},
        {"--chunk", CLI_TEXT, &chunks, 0, 0,
         "LIST of numbers of queries, with --ranks (default 1,64,4K,64K,1M)"},
        {"--link", CLI_REAL, &m.link, 1e-6, 1e6, "GB/s that a machine can send, with --ranks (default 50)"},
        {"--csv", CLI_TEXT, &csv, 0, 0, "FILE receives the table with operations and bytes"},
        {0}};
    lengths l = {0};
    int status = cli_parse(argc, argv, options, NULL);
    if (!status && !m.ranks && (chunks || m.link > 0))
        status =
            cli_fail(argv[0], "%s: expected it with --ranks, found it alone", chunks ? "--chunk" : "--link");
    if (!chunks)
        chunks = "1,64,4K,64K,1M";
    if (!(m.link > 0))
        m.link = 50;
    if (!list)
        list = m.ranks ? "128K,512K,1M,4M,16M" : "32K,64K,128K,256K,512K,1M";
    if (!status)
        status = read_lengths(argv[0], "--n", list, &l);
    if (!status)
        status = read_lengths(argv[0], "--chunk", chunks, &m.chunk);
    if (!status)
        status = check_chunks(argv[0], chunks, &l, &m.chunk);
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
    return report(argv[0], csv, &s, &l, &m);
}
