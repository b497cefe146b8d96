/* What chapter 9's figure explores: the text that its program reads, and of every layer, group and query the index score
 * and the true weight of each block that it sees, 8 hexadecimal digits a float. A script on standard output. */
#include <inttypes.h>
#include <string.h>

#include "../examples/example.h"
#include "../examples/passage.h"
#include "model/evaluate.h"

static void print_text(int length)
{
    printf("text:\"");
    for (int i = 0; i < length; i++)
        printf(passage[i] == '\n' ? "\\n" : passage[i] == '"' ? "\\\"" : "%c", passage[i]);
    printf("\",\n");
}

static void print_floats(const char *name, const msa_shape *s, const float *x)
{
    const int64_t blocks = msa_n_blocks(s);
    printf("%s:\"", name);
    for (int64_t row = 0; row < s->n_kv_heads * s->n_q; row++)
        for (int64_t b = 0; b <= row % s->n_q / s->block; b++) {
            uint32_t bits;
            memcpy(&bits, &x[row * blocks + b], sizeof bits);
            printf("%08" PRIx32, bits);
        }
    printf("\",\n");
}

static void print_layer(const msa_shape *s, const msa_layer_state *st)
{
    const int64_t row = s->n_kv_heads * s->n_q, n = row * msa_n_blocks(s);
    float *scores = room(n, sizeof *scores), *mass = room(n, sizeof *mass);
    int32_t *ids = room(row * s->topk, sizeof *ids);
    void *work = room(1, msa_workspace(NULL, s) + msa_recall_workspace(s));
    must(msa_index(s, st->qi, st->ki, scores, NULL, NULL, work));
    must(msa_block_mass(s, st->q, st->k, mass, work));
    must(msa_topk(s, scores, ids, work));
    if (memcmp(ids, st->ids, (size_t)(row * s->topk) * sizeof *ids) != 0) { /* of rounded scores two may be equal */
        fprintf(stderr, "09_watch: rounded scores choose other blocks than the layer did\n");
        exit(1);
    }
    printf("{");
    print_floats("scores", s, scores);
    print_floats("mass", s, mass);
    printf("},\n");
    free(scores), free(mass), free(ids), free(work);
}

int main(void)
{
    static const char path[] = "data/kjv-msa.safetensors";
    io_error err;
    model m;
    if (!st_available()) {
        fprintf(stderr, "09_watch: expected a build with jansson, to read %s, found none\n", path);
        return 77;
    }
    if (!model_load(&m, path, err)) {
        fprintf(stderr, "%s\n", err);
        return 1;
    }
    const int length = (int)sizeof passage - 2; /* as the chapter's program */
    model_run *run = model_run_new(&m, &msa_ref_ops, 1, length, false);
    if (!run)
        return 1;
    model_forward(&m, run, MSA_ATTN_SPARSE, (const uint8_t *)passage);
    const msa_shape s = model_run_shape(run);
    printf("lab.recordings[\"09_watch\"] = {groups:%d,block:%d,\n", s.n_kv_heads, s.block);
    print_text(length);
    printf("layers:[\n");
    for (int l = 0; l < m.config.n_layers; l++)
        print_layer(&s, model_run_layer(run, l));
    printf("]};\n");
    model_run_free(run);
    model_free(&m);
    return 0;
}
