/* Chapter 4: block scores, why the maximum and not the mean, and where the mask belongs. */
#include "example.h"

enum { T = 500, R = 2, D = 32, BLOCK = 32, B = (T + BLOCK - 1) / BLOCK, K = 4 };

/* [scores] */
/* m[b] = max over the visible tokens j of block b of qi.ki[j] / sqrt(D). If `late`, masks whole blocks, after the pool. */
static void block_scores(const float *qi, const float *ki, int p, int late, double *m)
{
    for (int b = 0; b < B; b++)
        m[b] = -INFINITY;
    for (int j = 0; j < T; j++) {
        if (late ? j / BLOCK > p / BLOCK : j > p) /* the mask acts on tokens, before the pool */
            continue;
        double s = 0;
        for (int c = 0; c < D; c++)
            s += (double)qi[c] * (double)ki[j * D + c];
        m[j / BLOCK] = fmax(m[j / BLOCK], s / sqrt(D));
    }
}
/* [scores] */

/* Which block of B has the best score, with one key that answers the query hidden in block `where`? */
static int found(unsigned seed, int where, double strength, int mean)
{
    float q[D], k[BLOCK * D];
    double best = -INFINITY;
    int at = -1;
    noise(q, D, seed);
    for (int b = 0; b < B; b++) {
        double m = mean ? 0 : -INFINITY;
        noise(k, BLOCK * D, seed * 100 + (unsigned)b);
        for (int j = 0; j < BLOCK; j++) {
            double s = 0;
            for (int c = 0; c < D; c++)
                s += (double)q[c] * ((double)k[j * D + c] + (b == where && j == 7 ? strength * (double)q[c] : 0));
            m = mean ? m + s / BLOCK : fmax(m, s);
        }
        if (m > best)
            best = m, at = b;
    }
    return at == where;
}

int main(void)
{
    static float qi[T * R * D], ki[T * D], m[R * T * B];
    static double early[B], late[B];
    noise(qi, T * R * D, 1);
    noise(ki, T * D, 2);
    msa_shape s = {.n_q = T, .n_kv = T, .n_heads = R, .n_kv_heads = R, .d_head = 1, .d_index = D, .block = BLOCK, .topk = K};
    void *work = room(1, msa_workspace(NULL, &s));
    must(msa_index(&s, qi, ki, m, NULL, NULL, work));

    int same = 0, leaks = 0, wins = 0;
    for (int r = 0; r < R; r++)
        for (int i = 0; i < T; i++) {
            block_scores(qi + (i * R + r) * D, ki, i, 0, early);
            block_scores(qi + (i * R + r) * D, ki, i, 1, late);
            int equal = 1, rank_early = 0, rank_late = 0, local = i / BLOCK;
            for (int b = 0; b < B; b++) {
                equal &= (float)early[b] == m[(r * T + i) * B + b];
                rank_early += b < local && early[b] >= early[local];
                rank_late += b < local && late[b] >= late[local];
            }
            same += equal;
            leaks += late[local] > early[local];
            wins += rank_late < K && rank_early >= K;
        }
    printf("%d queries in %d groups, %d blocks of %d (the last holds %d tokens)\n", T, R, B, BLOCK, T - (B - 1) * BLOCK);
    printf("rows of block scores equal to msa_index: %d of %d\n", same, R * T);
    printf("\nmask after the pool: the local block's score comes from the future in %d of %d rows\n", leaks, R * T);
    printf("  and would be among the best %d only because of that in %d\n", K, wins);

    printf("\none good key hidden among %d: how often is its block the best of %d?\n", BLOCK, B);
    printf("  strength   maximum   mean\n");
    for (int a = 1; a <= 4; a++) {
        int hits[2] = {0, 0};
        for (unsigned seed = 1; seed <= 200; seed++)
            for (int mean = 0; mean < 2; mean++)
                hits[mean] += found(seed, (int)(seed % B), 0.5 * a, mean);
        printf("  %8.1f %7d %% %4d %%\n", 0.5 * a, hits[0] / 2, hits[1] / 2);
    }
    free(work);
    return 0;
}
