/* Chapter 6: exact attention over the chosen blocks, what is lost, and what must not be. */
#include "example.h"

enum { N = 512, HQ = 4, HKV = 2, G = HQ / HKV, D = 32, BLOCK = 16, B = N / BLOCK };

static float q[N * HQ * D], k[N * HKV * D], v[N * HKV * D], qi[N * HKV * D], ki[N * D];
static float dense[N * HQ * D], dense_lse[N * HQ], o[N * HQ * D], lse[N * HQ], by_hand[N * HQ * D];
static int32_t ids[HKV * N * B];

/* [masked] */
/* Dense attention in which every key outside the support weighs nothing. If `leak`, forgets the mask in the local block. */
static void masked(const msa_shape *s, int leak)
{
    for (int i = 0; i < N; i++)
        for (int h = 0; h < HQ; h++) {
            double out[D] = {0}, sum = 0;
            const float *query = q + (i * HQ + h) * D;
            for (int j = 0; j < N; j++) {
                int r = h / G, chosen = 0;
                for (int a = 0; a < s->topk; a++)
                    chosen |= ids[(r * N + i) * s->topk + a] == j / BLOCK;
                if (!chosen || (j > i && !leak))
                    continue;
                double x = 0;
                for (int c = 0; c < D; c++)
                    x += (double)query[c] * (double)k[(j * HKV + r) * D + c];
                double w = exp(x / sqrt(D)); /* small logits here: no maximum needed */
                sum += w;
                for (int c = 0; c < D; c++)
                    out[c] += w * (double)v[(j * HKV + r) * D + c];
            }
            for (int c = 0; c < D; c++)
                by_hand[(i * HQ + h) * D + c] = (float)(out[c] / sum);
        }
}
/* [masked] */

int main(void)
{
    noise(q, N * HQ * D, 1);
    noise(k, N * HKV * D, 2);
    noise(v, N * HKV * D, 3);
    for (int i = 0; i < N; i++) /* an index that knows something: the group's queries, and the keys of both groups */
        for (int c = 0; c < D; c++) {
            for (int r = 0; r < HKV; r++) {
                for (int h = r * G; h < (r + 1) * G; h++) {
                    q[(i * HQ + h) * D + c] = 3.0f * q[(i * HQ + h) * D + c] + (h % G ? 0.7f * q[(i * HQ + r * G) * D + c] : 0);
                    qi[(i * HKV + r) * D + c] += q[(i * HQ + h) * D + c];
                }
                ki[i * D + c] += k[(i * HKV + r) * D + c];
            }
        }
    msa_shape s = {.n_q = N, .n_kv = N, .n_heads = HQ, .n_kv_heads = HKV, .d_head = D, .d_index = D, .block = BLOCK, .topk = B};
    void *work = room(1, msa_workspace(NULL, &s) + msa_recall_workspace(&s));
    must(msa_dense(&s, q, k, v, dense, dense_lse, work));

    printf("%d tokens in %d blocks of %d; the last 256 queries\n", N, B, BLOCK);
    printf("blocks kept   weight kept   least   output off by (rms)   tokens read\n");
    for (int keep = B; keep >= 2; keep /= 2) {
        s.topk = keep;
        must(msa_index(&s, qi, ki, NULL, ids, NULL, work));
        must(msa_sparse(&s, q, k, v, ids, o, lse, work));
        /* [kept] */
        double kept = 0, least = 1, off = 0;
        for (int row = N / 2 * HQ; row < N * HQ; row++) {
            double part = exp((double)lse[row] - (double)dense_lse[row]);
            kept += part / (N / 2 * HQ);
            least = fmin(least, part);
            for (int c = 0; c < D; c++)
                off += pow((double)o[row * D + c] - (double)dense[row * D + c], 2) / (N / 2 * HQ * D);
        }
        /* [kept] */
        printf("%11d %11.1f %% %5.0f %% %20.4f %13d\n", keep, 100 * kept, 100 * least, sqrt(off), keep * BLOCK);
    }

    s.topk = 4;
    must(msa_index(&s, qi, ki, NULL, ids, NULL, work));
    must(msa_sparse(&s, q, k, v, ids, o, lse, work));
    masked(&s, 0);
    printf("\n4 blocks, against dense attention with a mask: %s\n", distance(o, by_hand, N * HQ * D) < 1e-5 ? "equal" : "DIFFERENT");
    masked(&s, 1);
    int wrong = 0;
    for (int i = 0; i < N; i++)
        wrong += distance(o + i * HQ * D, by_hand + i * HQ * D, HQ * D) > 1e-5;
    printf("the same without the mask inside the local block: %d of %d queries wrong, by up to %.2f\n", wrong, N, distance(o, by_hand, N * HQ * D));

    int32_t *last = ids + (N - 1) * s.topk;
    last[1] = last[0];
    printf("a block named twice: %s\n", msa_strerror(msa_sparse(&s, q, k, v, ids, o, lse, work)));
    free(work);
    return 0;
}
