/* Chapter 13b: what 8 bits change in a selection, and a bound with which they change nothing: on random keys, up to a
 * million of them, and on those of the shipped model. */
#include "screening.h"

#include "model/evaluate.h"
#include "passage.h"

/* ---- Random keys ------------------------------------------------------------------------------------------------ */

enum { QUERIES = 16, MOST = 8192, SIZES = 3, WAYS = 5 };
static const int size[SIZES] = {512, 2048, MOST};

/* Ways to round: key and query, rotated first or not. The last is a ball. */
static const struct {
    format key, query;
    int rotated;
} way[WAYS] = {{INT8, INT8, 1}, {INT8, TWO, 1}, {INT8, INT8, 0}, {E4M3, E4M3, 0}, {FULL, FULL, 0}};

typedef struct row_of_blocks {
    double exact[MOST], served[MOST], mass[MOST]; /* served: by E4M3 keys and the query in full */
    bounds by[WAYS][MOST];
} row_of_blocks;

typedef struct query {
    float x[2][D]; /* as it is, and rotated */
    rounded form[2][FULL + 1];
} query;

static void look_at(const query *q, const float *keys, const rounded *forms, const float *middle,
                    double radius, int b, row_of_blocks *row)
{
    row->exact[b] = row->served[b] = -INFINITY;
    row->mass[b] = 0;
    for (int j = 0; j < BLOCK; j++) {
        const double x = product(q->x[0], keys + j * D, D);
        row->exact[b] = fmax(row->exact[b], x);
        row->mass[b] += exp(x / sqrt(D));
        row->served[b] = fmax(row->served[b], product(q->x[0], forms[2].x + j * D, D));
    }
    for (int w = 0; w < WAYS; w++) {
        const int turned = way[w].rotated;
        row->by[w][b] = w == WAYS - 1 ? bounds_of_ball(q->x[0], D, middle, radius)
                                      : bounds_of(q->x[turned], &q->form[turned][way[w].query],
                                                  &forms[way[w].key == E4M3 ? 2 : turned]);
    }
}

/* What each query has to know of all blocks. */
static void look(const query *q, int outliers, row_of_blocks *row)
{
#pragma omp parallel
    {
        float *keys = room(2L * BLOCK * D, sizeof *keys), *turned = keys + BLOCK * D, middle[D];
        rounded *forms = room(3, sizeof *forms); /* int8, int8 rotated, E4M3 */
#pragma omp for
        for (int b = 0; b < MOST; b++) {
            draw_rows(keys, BLOCK * D, 1, (uint64_t)b * BLOCK * D, outliers);
            memcpy(turned, keys, BLOCK * D * sizeof *keys);
            for (int j = 0; j < BLOCK; j++)
                rotate(turned + j * D);
            round_rows(keys, BLOCK, INT8, &forms[0]);
            round_rows(turned, BLOCK, INT8, &forms[1]);
            round_rows(keys, BLOCK, E4M3, &forms[2]);
            const double radius = ball_of(keys, BLOCK, D, middle);
            for (int i = 0; i < QUERIES; i++)
                look_at(&q[i], keys, forms, middle, radius, b, &row[i]);
        }
        free(keys);
        free(forms);
    }
}

static double sum_over(const double *x, const char *taken, int n)
{
    double sum = 0;
    for (int b = 0; b < n; b++)
        sum += taken[b] ? x[b] : 0;
    return sum;
}

/* What becomes of the first n blocks. */
static void report(const row_of_blocks *row, int n)
{
    char *exact = room(n, 1), *other = room(n, 1);
    double open[WAYS] = {0}, recall[2] = {0};
    int equal = 0, common = 0, lost = 0;
    for (int i = 0; i < QUERIES; i++) {
        int both = 0;
        choose(row[i].mass, n, K - 1, other);
        const double best = sum_over(row[i].mass, other, n);
        choose(row[i].exact, n, K - 1, exact);
        choose(row[i].served, n, K - 1, other);
        recall[0] += sum_over(row[i].mass, exact, n) / best / QUERIES;
        recall[1] += sum_over(row[i].mass, other, n) / best / QUERIES;
        for (int b = 0; b < n; b++)
            both += exact[b] && other[b];
        equal += both == K - 1;
        common += both;
        for (int w = 0; w < WAYS; w++) {
            open[w] += (double)candidates(row[i].by[w], n, K - 1, other) / QUERIES;
            for (int b = 0; b < n; b++)
                lost += exact[b] && !other[b];
        }
    }
    printf("%6d %2d / %d %6.3f %6.3f %6.3f", n, equal, QUERIES, (double)common / QUERIES / (K - 1), recall[0],
           recall[1]);
    for (int w = 0; w < WAYS; w++)
        printf(w ? "%7.0f" : "%8.0f", open[w]);
    printf("%5d\n", lost);
    free(exact);
    free(other);
}

static void random_keys(int outliers)
{
    printf("%s\n"
           "        E4M3 keys, query whole       blocks that a bound leaves open\n"
           "blocks   equal ids in score recall    int8,    two  int8,  E4M3,\n"
           "          sets common  exact   E4M3 rotated  codes  plain  plain   ball lost\n",
           outliers ? "\nthe same, four channels of every key 6 times as large"
                    : "random keys, 15 of so many blocks wanted, 16 queries");
    query *q = room(QUERIES, sizeof *q);
    row_of_blocks *row = room(QUERIES, sizeof *row);
    for (int i = 0; i < QUERIES; i++) {
        draw_rows(q[i].x[0], D, 2, (uint64_t)i * D, 0);
        memcpy(q[i].x[1], q[i].x[0], sizeof q[i].x[0]);
        rotate(q[i].x[1]);
        for (int turned = 0; turned < 2; turned++)
            for (int f = INT8; f <= FULL; f++)
                round_rows(q[i].x[turned], 1, (format)f, &q[i].form[turned][f]);
    }
    look(q, outliers, row);
    for (int a = 0; a < SIZES; a++)
        report(row, size[a]);
    free(q);
    free(row);
}

/* ---- The reference, where the bound helps and where it cannot --------------------------------------------------- */

static void settled(const char *what, int keys_differ)
{
    enum { BLOCKS = 64, ASKED = 4 };
    const msa_shape s = {.n_q = ASKED,
                         .n_kv = BLOCKS * BLOCK,
                         .n_heads = 1,
                         .n_kv_heads = 1,
                         .d_head = D,
                         .d_index = D,
                         .block = BLOCK,
                         .topk = K};
    float *ki = room(s.n_kv * D, sizeof *ki), qi[ASKED * D], *numbers = room(4 * BLOCKS, sizeof *numbers);
    const msa_index8 copy = {room(s.n_kv, D), numbers, numbers + BLOCKS, numbers + 2 * BLOCKS,
                             numbers + 3 * BLOCKS};
    int32_t ids[ASKED * K], expected[ASKED * K];
    double one_row[D];
    msa_screening done;
    void *work = room(1, msa_workspace(NULL, &s) + msa_index8_workspace(&s));
    draw_rows(qi, ASKED * D, 2, 0, 0);
    for (int64_t j = 0; j < s.n_kv; j++)
        draw_rows(ki + j * D, D, 1, keys_differ ? (uint64_t)(j * D) : 0, 0);
    must(msa_index8_keys(&s, NULL, ki, NULL, &copy, one_row));
    must(msa_index(&s, qi, ki, NULL, expected, NULL, work));
    must(msa_index8_select(&s, qi, 1, ki, &copy, ids, &done, work));
    printf("%-18s %3ld of %ld blocks settled, %ld of %ld rows wholly; ids right: %s\n", what,
           (long)done.settled, (long)done.blocks, (long)done.fell_back, (long)done.rows,
           memcmp(ids, expected, sizeof ids) ? "no" : "yes");
    free(ki);
    free(numbers);
    free(copy.codes);
    free(work);
}

/* ---- Learned keys ------------------------------------------------------------------------------------------------- */

/* Blocks that a ball leaves open, a mean over the rows that choose. */
static double balls(const model_run *run, int layer)
{
    const msa_shape s = model_run_shape(run);
    const msa_layer_state *st = model_run_layer(run, layer);
    const int n = (int)msa_n_blocks(&s), d = s.d_index, groups = s.n_kv_heads;
    float *middle = room((long)n * d, sizeof *middle);
    double *radius = room(n, sizeof *radius), open = 0, rows = 0;
    bounds *b = room(n, sizeof *b);
    char *taken = room(n, 1);
    for (int a = 0; a < n; a++)
        radius[a] = ball_of(st->ki + (long)a * s.block * d, s.block, d, middle + (long)a * d);
    for (long row = (long)s.topk * s.block * groups; row < s.n_q * groups; row++, rows++) {
        const int local = (int)(row / groups / s.block);
        for (int a = 0; a < local; a++)
            b[a] = bounds_of_ball(st->qi + row * d, d, middle + (long)a * d, radius[a]);
        open += candidates(b, local, s.topk - 1, taken);
    }
    free(middle);
    free(radius);
    free(b);
    free(taken);
    return open / rows;
}

static int learned_keys(void)
{
    static const char path[] = "data/kjv-msa.safetensors";
    io_error err;
    model m;
    if (!model_load(&m, path, err)) {
        fprintf(stderr, "%s\n", err);
        return 1;
    }
    const uint8_t *bytes = (const uint8_t *)passage;
    const eval_windows t = eval_windows_of(&m, bytes, sizeof passage - 1, 1);
    model_run *run = model_run_new(&m, &msa_ref_ops, 1, t.length, false);
    eval_small *layer = room(m.config.n_layers, sizeof *layer);
    if (!run || !eval_small_layers(&m, &msa_ref_ops, &t, layer))
        return 1;
    model_forward(&m, run, MSA_ATTN_SPARSE, bytes);
    printf("\nthe shipped model on %d bytes, %d of the blocks before the local one wanted\n"
           "layer   E4M3: equal   score recall of     blocks    left open by    wrong\n"
           "               sets    16 bits   E4M3     to see    int8    ball      ids\n",
           t.length, m.config.topk - 1);
    for (int l = 0; l < m.config.n_layers; l++) {
        const eval_small *a = &layer[l];
        const double rows = (double)a->rows, averaged = (double)a->bits[0].rows;
        printf("%5d %13.3f %10.3f %6.3f %10.1f %7.1f %7.1f %8ld\n", l, (double)a->equal / rows,
               a->bits[0].score_recall / averaged, a->bits[1].score_recall / averaged,
               (double)a->exact.blocks / rows, (double)a->exact.settled / rows, balls(run, l),
               (long)a->wrong);
    }
    free(layer);
    model_run_free(run);
    model_free(&m);
    return 0;
}

int main(void)
{
    if (!st_available()) {
        printf("13b_eight: expected a build with jansson, to read a model, found none\n");
        return 77;
    }
    random_keys(0);
    random_keys(1);
    printf("\nmsa_index8_select(), 4 queries\n");
    settled("random keys:", 1);
    settled("one key, repeated:", 0);
    return learned_keys();
}
