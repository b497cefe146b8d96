/* msa demo: the whole idea on a real text in about a minute. Four short parts: MSA is dense attention when
 * everything is selected; what it loses when it is not; what it saves; what it looks at. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../model/evaluate.h"
#include "../model/train.h"
#include "cli.h"
#include "report.h"

#define LOSS_WINDOWS 40
#define RECALL_WINDOWS 6

static int agreement(const char *command, const model *m, const eval_windows *t)
{
    double gap;
    if (!eval_dense_agreement(m, t, &gap))
        return report_no_memory(command);
    bool agrees = gap <= 1e-3; /* float32 sums in another order, through every layer */
    printf("1. With every block selected MSA is dense attention\n"
           "   largest difference between its logits and those of the dense reference: %.2g  %s\n\n",
           gap, agrees ? "(agree)" : "(DISAGREE)");
    return agrees ? 0 : 1;
}

static int losses(const char *command, const model *m, const model *twin, const eval_windows *t)
{
    double msa, dense, other = NAN;
    if (!eval_bits_per_byte(m, &msa_fast_ops, t, MSA_ATTN_SPARSE, &msa) ||
        !eval_bits_per_byte(m, &msa_fast_ops, t, MSA_ATTN_DENSE, &dense) ||
        (twin && !eval_bits_per_byte(twin, &msa_fast_ops, t, MSA_ATTN_DENSE, &other)))
        return report_no_memory(command);
    printf("2. What is lost when each query sees %d blocks of %d tokens instead of up to %d tokens\n",
           m->config.topk, m->config.block, t->length);
    printf("   %-52s %.4f bits per byte\n", "MSA", msa);
    printf("   %-52s %.4f\n", "the same weights with dense attention", dense);
    if (twin)
        printf("   %-52s %.4f   (MSA %+.2f %%)\n", "a dense twin, trained as long", other,
               100 * (msa / other - 1));
    printf("   over %d windows of %d bytes; what such a difference is worth: \"Results\" in README.md\n\n",
           t->count, t->length);
    return 0;
}

static int recall(const char *command, const model *m, const eval_windows *t)
{
    eval_recall *layer = malloc((size_t)m->config.n_layers * sizeof *layer);
    const bool ok = layer && eval_recalls(m, &msa_fast_ops, t, 1, layer);
    if (ok) {
        printf("   Does the index find the blocks that dense attention weighs most? (1 = all of them)\n");
        report_recall(layer, m->config.n_layers);
        printf("\n");
    }
    free(layer);
    return ok ? 0 : report_no_memory(command);
}

static int costs(void)
{
    printf("3. What is saved at the size of the paper's model\n\n");
    char name[] = "cost", *args[] = {name, NULL};
    return cmd_cost(1, args);
}

static int pictures(const char *command, const char *model_path, const char *text_path, const char *offset,
                    const char *out)
{
    printf("\n4. What it looks at: a page for the browser; choose a layer and a group, and move over the "
           "text\n\n");
    const int bad = cli_flush(command);
    char *args[] = {"dump",         "--model", (char *)model_path, "--text", (char *)text_path, "--offset",
                    (char *)offset, "--out",   (char *)out,        NULL};
    /* The last to print: what it writes is in its place only once that has arrived. */
    return bad ? bad : cmd_dump(9, args);
}

static int demo(const char *command, const model *m, const model *twin, const char *model_path,
                const char *text_path, const uint8_t *bytes, int64_t n, int64_t from, const char *out)
{
    const eval_windows loss = eval_windows_of(m, bytes + from, n - from, LOSS_WINDOWS),
                       few = eval_windows_of(m, bytes + from, n - from, RECALL_WINDOWS);
    if (loss.count == 0)
        return cli_fail(command, "--text %s: expected at least 2 bytes, found %lld", text_path,
                        (long long)(n - from));
    int status = cli_open_outputs(command, out, NULL, NULL, 0); /* before the work that would be lost */
    if (status)
        return status;
    printf("MiniMax Sparse Attention on %s\n", text_path);
    printf("model %s: %d layers, %d query heads in %d groups, blocks of %d, top %d, %zu parameters\n\n",
           model_path, m->config.n_layers, m->config.n_heads, m->config.n_kv_heads, m->config.block,
           m->config.topk, m->n_params);
    status = cli_flush(command);
    status = status ? status : agreement(command, m, &loss);
    status = status ? status : losses(command, m, twin, &loss);
    status = status ? status : cli_flush(command);
    status = status ? status : recall(command, m, &few);
    status = status ? status : costs();
    char offset[32];
    snprintf(offset, sizeof offset, "%lld", (long long)from);
    return status ? status : pictures(command, model_path, text_path, offset, out);
}

int cmd_demo(int argc, char **argv)
{
    const char *path = NULL, *twin_path = NULL, *text_path = NULL, *out = NULL;
    bool held_out = false;
    const cli_option options[] = {
        {"--model", CLI_NEEDED, &path, 0, 0, "FILE.safetensors of 'msa train'"},
        {"--twin", CLI_TEXT, &twin_path, 0, 0, "FILE.safetensors, the same trained with dense attention"},
        {"--text", CLI_NEEDED, &text_path, 0, 0, "FILE to look at"},
        {"--held-out", CLI_FLAG, &held_out, 0, 0, "only its last 5 %, which training does not see"},
        {"--out", CLI_NEEDED, &out, 0, 0, "DIR for the pictures"},
        {0}};
    int status = cli_parse(argc, argv, options, NULL);
    if (status)
        return status;
    io_error err;
    model m = {.params = NULL}, twin = {.params = NULL};
    unsigned char *bytes = NULL;
    size_t n = 0;
    if (!model_load(&m, path, err))
        status = cli_fail(argv[0], "--model: %s", err);
    else if (!m.config.sparse)
        status = cli_fail(argv[0], "--model %s: expected an MSA model, found a dense one", path);
    else if (twin_path && !model_load(&twin, twin_path, err))
        status = cli_fail(argv[0], "--twin: %s", err);
    else if (!io_read_file(text_path, REPORT_MAX_TEXT, &bytes, &n, err))
        status = cli_fail(argv[0], "--text: %s", err);
    else
        status = demo(argv[0], &m, twin.params ? &twin : NULL, path, text_path, bytes, (int64_t)n,
                      held_out ? train_split(bytes, (int64_t)n).n_train : 0, out);
    free(bytes);
    model_free(&twin);
    model_free(&m);
    return status;
}
