/* Chapter 5: the choice of blocks. By raw scores, by probabilities, and with ties. */
#include "example.h"

enum { T = 1024, BLOCK = 16, B = T / BLOCK, K = 8, D = 16 };

/* [choose] */
/* The local block, then K-1 times the best block not yet taken. A higher score wins, and among equals the lower id. */
static void choose(const float *m, int local, int32_t *ids, int high)
{
    int taken[B] = {0}, n = 0;
    taken[local] = 1;
    for (int slot = 1; slot < K; slot++) {
        int best = -1;
        for (int b = 0; b < local; b++)
            if (!taken[b] && (best < 0 || m[b] > m[best] || (high && m[b] >= m[best])))
                best = b;
        if (best >= 0)
            taken[best] = 1;
    }
    for (int b = 0; b <= local; b++) /* ascending, so the local block comes last */
        if (taken[b])
            ids[n++] = b;
    while (n < K)
        ids[n++] = -1;
}
/* [choose] */

static int rows_differ(const int32_t *a, const int32_t *b)
{
    int rows = 0;
    for (int i = 0; i < T; i++) {
        int differ = 0;
        for (int c = 0; c < K; c++)
            differ |= a[i * K + c] != b[i * K + c];
        rows += differ;
    }
    return rows;
}

int main(void)
{
    static float qi[T * D], ki[T * D], m[T * B], p[B];
    static int32_t reference[T * K], ids[T * K];
    msa_shape s = {.n_q = T, .n_kv = T, .n_heads = 1, .n_kv_heads = 1, .d_head = 1, .d_index = D, .block = BLOCK, .topk = K};
    void *work = room(1, msa_workspace(NULL, &s));

    printf("%d rows, the best %d of up to %d blocks; rows that differ from the ranking of raw scores:\n", T, K, B);
    printf("  scores up to   own loop   by exp in float32   by exp in double   blocks with weight 0 in float32\n");
    for (int sharp = 1; sharp <= 64; sharp *= 8) {
        noise(qi, T * D, 1);
        noise(ki, T * D, 2);
        for (int i = 0; i < T * D; i++)
            qi[i] *= (float)sharp;
        must(msa_index(&s, qi, ki, m, NULL, NULL, work));
        must(msa_topk(&s, m, reference, work));
        float top = 0;
        for (int i = 0; i < T; i++)
            choose(m + i * B, i / BLOCK, ids + i * K, 0);
        int own = rows_differ(ids, reference), with_exp[2];
        long zero = 0, all = 0;
        for (int wide = 0; wide < 2; wide++) {
            for (int i = 0; i < T; i++) {
                float max = -INFINITY;
                for (int b = 0; b <= i / BLOCK; b++)
                    max = fmaxf(max, m[i * B + b]);
                top = fmaxf(top, max);
                double order[B];
                for (int b = 0; b <= i / BLOCK; b++) {
                    double e = exp((double)m[i * B + b] - (double)max);
                    order[b] = wide ? e : (double)(float)e;
                    all += !wide;
                    zero += !wide && (float)e == 0;
                }
                for (int b = 0; b <= i / BLOCK; b++) { /* ranks as floats: how many are below */
                    int below = 0;
                    for (int c = 0; c <= i / BLOCK; c++)
                        below += order[c] < order[b];
                    p[b] = (float)below;
                }
                choose(p, i / BLOCK, ids + i * K, 0);
            }
            with_exp[wide] = rows_differ(ids, reference);
        }
        printf("  %12.0f %10d %19d %18d %29.0f %%\n", (double)top, own, with_exp[0], with_exp[1], 100.0 * (double)zero / (double)all);
    }

    noise(qi, T * D, 3);
    noise(ki, T * D, 4);
    for (int i = 0; i < T * D; i++) { /* small integers: dot products are exact anywhere, and often equal */
        qi[i] = roundf(qi[i]);
        ki[i] = roundf(ki[i]);
    }
    must(msa_index(&s, qi, ki, m, reference, NULL, work));
    for (int high = 0; high < 2; high++) {
        for (int i = 0; i < T; i++)
            choose(m + i * B, i / BLOCK, ids + i * K, high);
        printf("%ssmall integers, ties to the %s id: %d rows differ from msa_index\n", high ? "" : "\n", high ? "higher" : "lower ", rows_differ(ids, reference));
    }
    printf("\nrow 5 (too early for %d blocks):", K);
    for (int c = 0; c < K; c++)
        printf(" %d", reference[5 * K + c]);
    printf("\nrow %d:", T - 1);
    for (int c = 0; c < K; c++)
        printf(" %d", reference[(T - 1) * K + c]);
    printf("\n");
    free(work);
    return 0;
}
