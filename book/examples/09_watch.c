/* Chapter 9: what the selector of the shipped model does on 768 bytes that it has never seen. */
#include "example.h"

#include <string.h>

#include "model/evaluate.h"
#include "passage.h"

enum { SELECTOR, RANDOM, NEAREST, CHOICES };

/* The local block and those before it: a window that slides along with the query. */
static void nearest_ids(const msa_shape *s, int32_t *ids)
{
    for (int64_t row = 0; row < s->n_kv_heads * s->n_q; row++) {
        int64_t local = row % s->n_q / s->block, first = local < s->topk ? 0 : local - s->topk + 1;
        for (int c = 0; c < s->topk; c++)
            ids[row * s->topk + c] = first + c <= local ? (int32_t)(first + c) : -1;
    }
}

/* [one_group] */
/* Averages of one group over the queries that have to leave something out. */
static void average(const msa_shape *s, int group, const float *per_query, double *block, double *score)
{
    const float *blocks = per_query + group * s->n_q, *scores = blocks + s->n_kv_heads * s->n_q;
    int64_t first = (int64_t)s->topk * s->block; /* earlier ones keep every block they see */
    *block = *score = 0;
    for (int64_t i = first; i < s->n_q; i++) {
        *block += (double)blocks[i] / (double)(s->n_q - first);
        *score += (double)scores[i] / (double)(s->n_q - first);
    }
}
/* [one_group] */

static void recall_table(const model_run *run, int layers)
{
    const msa_shape s = model_run_shape(run);
    const int64_t rows = s.n_kv_heads * s.n_q;
    int32_t *ids = room(rows * s.topk, sizeof *ids);
    float *per_query = room(2 * rows, sizeof *per_query);
    void *work = room(1, msa_recall_workspace(&s));
    double mean[CHOICES][2] = {{0}}, block, score;
    printf("                  chosen by the index   random blocks     nearest blocks\nlayer  group         block   score    block   score    block   score\n");
    for (int l = 0; l < layers; l++) {
        const msa_layer_state *st = model_run_layer(run, l);
        for (int group = 0; group < s.n_kv_heads; group++) {
            printf("%5d %6d     ", l, group);
            for (int choice = 0; choice < CHOICES; choice++) {
                msa_recall_result all;
                if (choice == RANDOM)
                    eval_random_ids(&s, (uint64_t)l + 1, ids);
                if (choice == NEAREST)
                    nearest_ids(&s, ids);
                must(msa_recall(&s, st->q, st->k, choice == SELECTOR ? st->ids : ids, per_query, &all, work));
                average(&s, group, per_query, &block, &score);
                printf(" %8.2f %7.2f", block, score);
                mean[choice][0] += block / (layers * s.n_kv_heads);
                mean[choice][1] += score / (layers * s.n_kv_heads);
            }
            printf("\n");
        }
    }
    printf("         mean    ");
    for (int choice = 0; choice < CHOICES; choice++)
        printf(" %8.2f %7.2f", mean[choice][0], mean[choice][1]);
    printf("\n");
    free(ids);
    free(per_query);
    free(work);
}

/* [map] */
/* How many of the queries of one block chose each block of keys. */
static void count_row(const msa_shape *s, const int32_t *ids, int group, int64_t query_block, int *count)
{
    memset(count, 0, (size_t)msa_n_blocks(s) * sizeof *count);
    for (int64_t i = query_block * s->block; i < (query_block + 1) * s->block; i++)
        for (int c = 0; c < s->topk; c++) {
            int32_t b = ids[((int64_t)group * s->n_q + i) * s->topk + c];
            if (b >= 0)
                count[b]++;
        }
}
/* [map] */

static void maps(const model_run *run, int layer)
{
    const msa_shape s = model_run_shape(run);
    const int n = (int)msa_n_blocks(&s);
    int *count = room(n, sizeof *count);
    printf("\nlayer %d    group 0 %*s group 1\n", layer, n - 5, "");
    for (int row = s.topk; row < n; row++) {
        printf("queries %2d ", row);
        for (int group = 0; group < s.n_kv_heads; group++) {
            count_row(&s, model_run_layer(run, layer)->ids, group, row, count);
            for (int b = 0; b < n; b++)
                putchar(b > row ? ' ' : " .:o#"[(count[b] * 4 + s.block - 1) / s.block]);
            printf("%s", group + 1 < s.n_kv_heads ? "    " : "\n");
        }
    }
    free(count);
}

int main(void)
{
    static const char path[] = "data/kjv-msa.safetensors";
    io_error err;
    model m;
    if (!st_available()) {
        printf("09_watch: expected a build with jansson, to read %s, found none\n", path);
        return 77;
    }
    if (!model_load(&m, path, err)) {
        fprintf(stderr, "%s\n", err);
        return 1;
    }
    const uint8_t *bytes = (const uint8_t *)passage;
    const int length = (int)sizeof passage - 2; /* the last byte is only predicted */
    model_run *run = model_run_new(&m, &msa_ref_ops, 1, length, false);
    if (!run)
        return 1;
    model_forward(&m, run, MSA_ATTN_SPARSE, bytes);
    printf("%d bytes in blocks of %d, %d of up to %d kept; %.2f bits per byte\n\n", length, m.config.block, m.config.topk,
           length / m.config.block, model_loss(run, bytes + 1, NULL) / log(2));
    recall_table(run, m.config.n_layers);
    maps(run, 0);
    maps(run, 2);
    model_run_free(run);
    model_free(&m);
    return 0;
}
