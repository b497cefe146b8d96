/* msa decode: one step of generation for a batch of requests whose KV caches lie in pages, from tensors in
 * files. A file's pages are [P,Hkv,page,dh], as serving stacks keep them; the library's [P,page,Hkv,dh] (msa.h).
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../bf16.h"
#include "../internal.h"
#include "../judge/copy8.h"
#include "../model/evaluate.h"
#include "../table/table.h"
#include "decode_pages.h"
#include "ranks.h"

/* The call: what the files hold, as the library takes it. */
typedef struct step {
    cli_tensors t;
    msa_pages pages;
    int32_t *cu; /* where the requests' queries and keys begin */
    bool small;  /* 8-bit index keys */
    bool codes;  /* an 8-bit copy beside them, by which a device screens */
    cli_ranks ranks;
    eval_small agreement;
    msa_screening screening;
} step;

static const int32_t *ints(const step *a, cli_tensor which)
{
    return a->t.array[which].data;
}

/* ---- Shape and pages -------------------------------------------------------------------------------- */

/* A block is made of whole pages, or a page of whole blocks. */
static int choose_block(const char *command, step *a, int64_t page)
{
    if (!a->t.block)
        a->t.block = page;
    if (page % a->t.block != 0 && a->t.block % page != 0)
        return cli_fail(
            command,
            "--block: expected a multiple of the %lld tokens of a page of %s, or a divisor, found %lld",
            (long long)page, a->t.path[CLI_K_PAGES], (long long)a->t.block);
    return 0;
}

/* The largest call that the page table allows: every request with all of its pages full. */
static int build_shape(const char *command, step *a, const cli_size_table *table)
{
    msa_shape *s = &a->t.shape;
    const char *const *path = a->t.path;
    const int64_t n = cli_size_or(table, 'R', 1), n_q = cli_size_or(table, 't', 1),
                  pages = cli_size_or(table, 'M', 1), page = cli_size_or(table, 'b', 1);
    if (choose_block(command, a, page))
        return 2;
    if ((double)n * (double)pages * (double)page > INT32_MAX || (double)n * (double)n_q > INT32_MAX)
        return cli_fail(command,
                        "%s: expected room for fewer than 2^31 tokens, found %lld x %lld pages of %lld",
                        path[CLI_TABLE], (long long)n, (long long)pages, (long long)page);
    a->cu = cli_alloc(command, 2 * (size_t)(n + 1) * sizeof *a->cu);
    if (!a->cu)
        return 2;
    for (int64_t r = 0; r <= n; r++) {
        a->cu[r] = (int32_t)(r * n_q);
        a->cu[n + 1 + r] = (int32_t)(r * pages * page);
    }
    *s = (msa_shape){.n_q = n * n_q,
                     .n_kv = n * pages * page,
                     .n_heads = (int)cli_size_or(table, 'H', 1),
                     .n_kv_heads = (int)cli_size_or(table, 'G', 1),
                     .d_head = (int)cli_size_or(table, 'd', 1),
                     .d_index = (int)cli_size_or(table, 'i', 1),
                     .block = (int)a->t.block,
                     .topk = (int)(a->t.topk ? a->t.topk : 16),
                     .n_seqs = (int)n,
                     .cu_q = a->cu,
                     .cu_kv = a->cu + n + 1};
    switch (msa_check_shape(s)) {
    case MSA_OK:
        return 0;
    case MSA_ERR_HEADS:
        return cli_fail(command, "%s: expected a multiple of the %d heads of %s, found %d", path[CLI_STEP_Q],
                        s->n_kv_heads, path[CLI_K_PAGES], s->n_heads);
    case MSA_ERR_SEQLENS:
    case MSA_ERR_CAUSAL:
        return cli_fail(command,
                        "%s: expected room for the %lld new tokens of a request, found %lld pages of %lld",
                        path[CLI_TABLE], (long long)n_q, (long long)pages, (long long)page);
    default:
        return cli_fail(command, "%s: expected sizes that memory can hold, found %lld queries, k %d",
                        path[CLI_STEP_Q], (long long)s->n_q, s->topk);
    }
}

/* ---- 8-bit index keys ------------------------------------------------------------------------------- */

/* The index keys, rounded to bf16, and the codes of every piece that a request has completed. */
static int encode_keys(const char *command, step *a)
{
    const msa_shape *s = &a->t.shape;
    const int64_t piece = a->pages.page < s->block ? a->pages.page : s->block, d = s->d_index;
    const size_t n = a->t.array[CLI_KI_PAGES].count;
    float *const keys = a->t.array[CLI_KI_PAGES].data;
    a->pages.ki8 = cli_alloc(command, n);
    a->pages.scale = a->pages.ki8 ? cli_alloc(command, n / (size_t)(piece * d) * sizeof(float)) : NULL;
    if (!a->pages.scale)
        return 2;
    memset(a->pages.ki8, 0, n);
    memset(a->pages.scale, 0, n / (size_t)(piece * d) * sizeof(float));
    for (size_t i = 0; i < n; i++)
        keys[i] = msa_bf16(keys[i]);
    for (int r = 0; r < msa_n_seqs(s); r++) {
        const request at = get_request(s, &a->pages, r);
        for (int64_t j = 0; j + piece <= a->pages.lens[r]; j += piece) {
            const int64_t row = key_row(&at, j);
            msa_e4m3_block(keys + row * d, piece * d, a->pages.ki8 + row * d, &a->pages.scale[row / piece]);
        }
    }
    return 0;
}

/* The first n tokens of request r out of their pages of `width` floats a token. */
static float *gather(const char *command, const step *a, int r, int64_t n, cli_tensor which, int64_t width)
{
    const request at = get_request(&a->t.shape, &a->pages, r);
    const float *from = a->t.array[which].data;
    float *to = cli_alloc(command, (size_t)(n * width) * sizeof *to);
    for (int64_t j = 0; to && j < n; j++)
        memcpy(to + j * width, from + key_row(&at, j) * width, (size_t)width * sizeof *to);
    return to;
}

/* What 16 and 8 bits choose for the queries of request r, by the reference. */
static int compare_request(const char *command, step *a, int r)
{
    const msa_shape *all = &a->t.shape;
    const msa_seq seq = msa_get_seq(all, r);
    const int64_t n = a->pages.lens[r];
    msa_shape s = *all;
    s.n_q = seq.n_q, s.n_kv = n, s.n_seqs = 1, s.cu_q = s.cu_kv = s.len_q = s.len_kv = NULL;
    const size_t recall = msa_recall_workspace(&s), index = msa_ref_ops.stage[MSA_STAGE_INDEX]->workspace(&s);
    float *k = gather(command, a, r, n, CLI_K_PAGES, (int64_t)s.n_kv_heads * s.d_head),
          *ki = k ? gather(command, a, r, n, CLI_KI_PAGES, s.d_index) : NULL;
    int32_t *ids = ki ? cli_alloc(command, 2 * (size_t)(s.n_kv_heads * s.n_q * s.topk) * sizeof *ids) : NULL;
    void *work = ids ? cli_alloc(command, recall > index ? recall : index) : NULL;
    eval_small one = {.ki = {NULL, NULL}};
    const bool ok = work && eval_small_new(&one, &s, ki);
    if (work && !ok)
        cli_fail(command, "expected memory for rounded keys, found too little");
    if (ok) {
        eval_small_add(&one, &s, cli_floats(&a->t, CLI_STEP_Q) + seq.q0 * s.n_heads * s.d_head, k,
                       cli_floats(&a->t, CLI_STEP_QI) + seq.q0 * s.n_kv_heads * s.d_index, ids, work);
        eval_small_sum(&a->agreement, &one);
    }
    eval_small_free(&one);
    free(k), free(ki), free(ids), free(work);
    return ok ? 0 : 2;
}

static int compare_keys(const char *command, step *a)
{
    int bad = 0;
    for (int r = 0; r < msa_n_seqs(&a->t.shape) && !bad; r++)
        bad = a->pages.lens[r] > 0 ? compare_request(command, a, r) : 0;
    return bad;
}

static void print_agreement(const step *a)
{
    const eval_small *sum = &a->agreement;
    if (sum->rows == 0)
        printf("8-bit index keys: no query has more than %d visible blocks, so they choose nothing\n",
               a->t.shape.topk);
    else
        printf("8-bit index keys choose the blocks of 16-bit ones for %.4f of %lld (query, group) pairs, "
               "%.4f of "
               "all ids; score recall %.4f, with 16 bits %.4f\n",
               (double)sum->equal / (double)sum->rows, (long long)sum->rows,
               (double)sum->in_both / (double)sum->ids, sum->bits[1].score_recall / (double)sum->bits[1].rows,
               sum->bits[0].score_recall / (double)sum->bits[0].rows);
}

/* ---- Screening by an 8-bit copy ---------------------------------------------------------------------- */

/* Of the keys as a device reads them, in bf16; 0, or 2 after an error line. */
static int copy_keys(const char *command, const msa_kernel *decode, const step *a, msa_index8 *copy)
{
    if (!table_screens(decode))
        return cli_fail(
            command,
            "--index-keys int8: expected a kernel on a device that screens by them, found decode/%s on %s",
            decode->name, decode->backend);
    float *keys = bf16_copy(cli_floats(&a->t, CLI_KI_PAGES), copy8_codes(&a->t.shape, &a->pages));
    if (keys)
        *copy = copy8_new(&a->t.shape, &a->pages, keys);
    free(keys);
    return copy->codes ? 0
                       : cli_fail(command, "expected memory for a copy of the index keys, found too little");
}

/* ---- The step --------------------------------------------------------------------------------------- */

enum { IDS, O, LSE, N_OUTPUTS };

static int read_step(const char *command, step *a)
{
    cli_size_table table;
    int bad = cli_read_files(command, &a->t, &table);
    if (!bad)
        bad = build_shape(command, a, &table);
    if (bad)
        return bad;
    a->pages = (msa_pages){.n_pages = cli_size_or(&table, 'P', 1),
                           .table = ints(a, CLI_TABLE),
                           .lens = ints(a, CLI_LENS),
                           .page = (int)cli_size_or(&table, 'b', 1)};
    bad = pages_check(command, &a->t, &a->pages);
    for (int i = CLI_K_PAGES; i <= CLI_V_PAGES && !bad && !a->t.dealt; i++)
        bad = pages_turn(command, &a->t.shape, &a->pages, &a->t.array[i]);
    if (!bad && cli_is_first())
        bad = pages_check_values(command, &a->t, &a->pages);
    if (!bad && a->small)
        bad = encode_keys(command, a);
    if (!bad)
        cli_say_notes(command, &a->t);
    return bad;
}

static int compute(const char *command, cli_plan *plan, step *a, cli_output *out)
{
    const msa_shape *s = &a->t.shape;
    const msa_kernel *decode = plan->ops.stage[MSA_STAGE_DECODE];
    msa_index8 copy = {0};
    if (a->codes && copy_keys(command, decode, a, &copy))
        return 2;
    void *work = cli_alloc(command, decode->workspace(s));
    if (!work) {
        copy8_free(&copy);
        return 2;
    }
    const msa_status status =
        decode->run(s,
                    &(msa_arrays){.pages = a->pages,
                                  .q = cli_floats(&a->t, CLI_STEP_Q),
                                  .k = cli_floats(&a->t, CLI_K_PAGES),
                                  .v = cli_floats(&a->t, CLI_V_PAGES),
                                  .qi = cli_floats(&a->t, CLI_STEP_QI),
                                  .ki = a->small ? NULL : cli_floats(&a->t, CLI_KI_PAGES),
                                  .ids = out[IDS].data,
                                  .o = out[O].data,
                                  .lse = out[LSE].data,
                                  .index8 = a->codes ? &copy : NULL,
                                  .screening = a->codes ? &a->screening : NULL},
                    work);
    free(work);
    copy8_free(&copy);
    if (status == MSA_ERR_UNSUPPORTED && a->small)
        return cli_fail(command,
                        "--index-keys fp8: expected a kernel that takes them and these sizes, found "
                        "decode/%s on %s (%s)",
                        decode->name, decode->backend, decode->constraints);
    return cli_ran(command, plan, s, MSA_STAGE_DECODE, status);
}

static int compute_on_ranks(const char *command, cli_plan *plan, const step *a, cli_output *out)
{
    const msa_shape *s = &a->t.shape;
    int32_t *len_q = cli_alloc(command, (size_t)msa_n_seqs(s) * sizeof *len_q);
    if (!len_q)
        return 2;
    const msa_shape padded = deal_padded(s, &a->pages, len_q);
    const int bad = cli_run_ranks(command, plan, &a->ranks,
                                  &(cli_dealt){.t = &a->t,
                                               .s = &padded,
                                               .pages = &a->pages,
                                               .screens = a->codes,
                                               .ids = out[IDS].data,
                                               .o = out[O].data,
                                               .lse = out[LSE].data});
    free(len_q);
    return bad;
}

static int run(const char *command, cli_plan *plan, step *a, const char *dir)
{
    const msa_shape *s = &a->t.shape;
    cli_output out[N_OUTPUTS] = {[IDS] = {"ids.npy", NPY_I32, "GRtk", NULL},
                                 [O] = {"o.npy", NPY_F32, "RtHd", NULL},
                                 [LSE] = {"lse.npy", NPY_F32, "RtH", NULL}};
    int bad = cli_open_outputs(command, dir, s, out, N_OUTPUTS);
    if (!bad && cli_wants_ranks(&a->ranks))
        bad = compute_on_ranks(command, plan, a, out);
    else if (!bad)
        bad = compute(command, plan, a, out);
    if (!bad && a->small)
        bad = compare_keys(command, a);
    if (!bad && cli_is_first())
        bad = cli_write_outputs(command, dir, s, out, N_OUTPUTS);
    if (!bad && cli_is_first()) {
        cli_print_ranks();
        cli_print_plan(plan);
        if (a->small)
            print_agreement(a);
        if (a->codes && !cli_wants_ranks(&a->ranks))
            cli_print_screening(&a->screening);
        bad = cli_commit_outputs(command);
    }
    cli_free_outputs(out, N_OUTPUTS);
    return bad;
}

int cmd_decode(int argc, char **argv)
{
    step a = {.t = {.block = 0}};
    const char *dir = NULL, *backend = "fast", *kernel = NULL, *keys = "f32";
    const char **path = a.t.path;
    const cli_option options[] = {
        {"--q", CLI_NEEDED, &path[CLI_STEP_Q], 0, 0, "F queries of the new tokens [R,Tq,Hq,dh]"},
        {"--k-pages", CLI_NEEDED, &path[CLI_K_PAGES], 0, 0, "F keys [P,Hkv,page,dh]"},
        {"--v-pages", CLI_NEEDED, &path[CLI_V_PAGES], 0, 0, "F values [P,Hkv,page,dh]"},
        {"--qi", CLI_NEEDED, &path[CLI_STEP_QI], 0, 0, "F index queries [R,Tq,Hkv,di]"},
        {"--ki-pages", CLI_NEEDED, &path[CLI_KI_PAGES], 0, 0, "F index keys [P,page,di]"},
        {"--page-table", CLI_NEEDED, &path[CLI_TABLE], 0, 0, "F [R,max_pages]: a request's pages, then -1"},
        {"--lens", CLI_NEEDED, &path[CLI_LENS], 0, 0,
         "F [R]: tokens of a request, the Tq new ones included; 0: there is none"},
        {"--block", CLI_INT, &a.t.block, 1, CLI_MAX_BLOCK, "N tokens in a key block (default: a page)"},
        {"--topk", CLI_INT, &a.t.topk, 1, CLI_MAX_TOPK, "N blocks kept (default: 16)"},
        {"--index-keys", CLI_TEXT, &keys, 0, 0,
         "KIND f32: as they are; fp8: rounded to 8 bits; int8: a copy to screen by, on a device or ranks"},
        {"--kernel", CLI_TEXT, &kernel, 0, 0, "NAME of a decode kernel; 'msa kernels' lists them"},
        CLI_OPT_BACKEND(backend),
        CLI_OPT_RANKS(a.ranks),
        {"--out", CLI_NEEDED, &dir, 0, 0, "DIR receives ids.npy [Hkv,R,Tq,k], o.npy, lse.npy"},
        {0}};
    int status = cli_parse(argc, argv, options, NULL);
    if (status)
        return status;
    a.small = strcmp(keys, "fp8") == 0, a.codes = strcmp(keys, "int8") == 0;
    if (!a.small && !a.codes && strcmp(keys, "f32") != 0)
        return cli_fail(argv[0], "--index-keys: expected f32, fp8 or int8, found '%s'", keys);
    status = cli_check_ranks(argv[0], &a.ranks, backend);
    if (!status && a.small && cli_wants_ranks(&a.ranks))
        status = cli_fail(argv[0], "--index-keys: expected f32 or int8 with ranks, found fp8");
    cli_plan plan;
    if (!status)
        status = cli_choose_kernel(argv[0], backend, kernel, MSA_STAGE_DECODE, &plan);
    a.t.dealt = cli_wants_ranks(&a.ranks);
    if (!status)
        status = read_step(argv[0], &a);
    if (!status)
        status = run(argv[0], &plan, &a, dir);
    cli_free_tensors(&a.t);
    free(a.pages.ki8), free(a.pages.scale), free(a.cu);
    return status;
}
