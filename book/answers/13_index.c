/* Answers to chapter 13: longer lists, other buffers, and CTAs that share the keys of a row. */
#include "../examples/engine.h"

enum { BLOCKS = 1024, ROWS = 1024, LANES = 32, PLACES = 15, MOST = 16 };

static double enter(double blocks, double places)
{
    double sum = 0;
    for (double b = 1; b <= blocks; b++)
        sum += fmin(1, places / b);
    return sum;
}

typedef struct row_list {
    float best[PLACES], worst, buffer[MOST];
    int n;
} row_list;

static void flush(row_list *row)
{
    for (int c = 0; c < row->n; c++) {
        int at = 0;
        for (int a = 1; a < PLACES; a++)
            at = row->best[a] < row->best[at] ? a : at;
        row->best[at] = fmaxf(row->best[at], row->buffer[c]);
    }
    row->worst = row->best[0];
    for (int a = 1; a < PLACES; a++)
        row->worst = fminf(row->worst, row->best[a]);
    row->n = 0;
}

/* Warps of 32 rows insert as soon as a row has `buffer` candidates: candidates a row, insertions a warp. */
static void buffers(const float *score, int buffer)
{
    long candidates = 0, insertions = 0;
    for (int warp = 0; warp < ROWS / LANES; warp++) {
        row_list row[LANES];
        for (int l = 0; l < LANES; l++) {
            for (int a = 0; a < PLACES; a++)
                row[l].best[a] = -INFINITY;
            row[l].worst = -INFINITY;
            row[l].n = 0;
        }
        for (int b = 0; b < BLOCKS; b++) {
            int most = 0;
            for (int l = 0; l < LANES; l++) {
                const float x = score[(warp * LANES + l) * BLOCKS + b];
                if (x > row[l].worst) {
                    row[l].buffer[row[l].n++] = x;
                    candidates++;
                }
                most = row[l].n > most ? row[l].n : most;
            }
            if (most < buffer && !(b + 1 == BLOCKS && most))
                continue;
            insertions += most;
            for (int l = 0; l < LANES; l++)
                flush(&row[l]);
        }
    }
    printf("candidates_%d %.0f\ninsertions_%d %.0f\n", buffer, (double)candidates / ROWS, buffer,
           (double)insertions / (ROWS / LANES));
}

/* What `fused` writes for 64 queries at the end of so many keys. */
static simt_counters fused(int n_kv)
{
    const msa_shape s = {.n_q = 64,
                         .n_kv = n_kv,
                         .n_heads = 4,
                         .n_kv_heads = 4,
                         .d_head = 64,
                         .d_index = 128,
                         .block = 128,
                         .topk = 4,
                         .n_seqs = 1};
    trial t = engine_inputs(&s, "random");
    const simt_counters n = engine_count(&t, "index/fused");
    trial_end(&t);
    return n;
}

int main(void)
{
    engine_needed();
    printf("enter_16 %.0f\nenter_32 %.0f\n", enter(8192, 15), enter(8192, 31));
    float *score = room((long)ROWS * BLOCKS, sizeof *score);
    noise(score, (long)ROWS * BLOCKS, 1);
    for (int buffer = 4; buffer <= 16; buffer *= 2)
        buffers(score, buffer);
    free(score);
    const simt_counters alone = fused(1920), shared = fused(4096);
    printf("written %ld\nlaunches %ld\n", (long)shared.store_bytes, (long)shared.launches);
    const long ids = 64 * 4 * 4 * (long)sizeof(int32_t); /* queries, groups, k */
    printf("ids %ld\nids_alone %ld\nids_launches %ld\nentries %ld\n", ids, (long)alone.store_bytes,
           (long)alone.launches, (long)shared.store_bytes - ids);
    printf("three %.0f\n", 3 * enter(8192 / 3.0, 15));
    return 0;
}
