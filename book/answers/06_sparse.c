/* Answers to chapter 6: a loss of weight that no output shows, and what one lost row does to an average. */
#include "../examples/example.h"

enum { N = 256, D = 16, BLOCK = 16, K = 2 };

int main(void)
{
    static float q[N * D], k[N * D], v[N * D], dense[N * D], o[N * D], dense_lse[N], lse[N];
    static int32_t ids[N * K];
    noise(q, N * D, 1);
    noise(k, N * D, 2);
    for (int j = 0; j < N; j++)
        for (int c = 0; c < D; c++)
            v[j * D + c] = (float)c; /* the same vector for all tokens */
    for (int i = 0; i < N; i++) {    /* block 0 and the local one */
        ids[i * K] = 0;
        ids[i * K + 1] = i < BLOCK ? -1 : i / BLOCK;
    }
    msa_shape s = {.n_q = N,
                   .n_kv = N,
                   .n_heads = 1,
                   .n_kv_heads = 1,
                   .d_head = D,
                   .d_index = D,
                   .block = BLOCK,
                   .topk = K};
    void *work = room(1, msa_workspace(NULL, &s));
    must(msa_dense(&s, q, k, v, dense, dense_lse, work));
    must(msa_sparse(&s, q, k, v, ids, o, lse, work));
    double kept = 0;
    for (int i = N / 2; i < N; i++)
        kept += exp((double)lse[i] - (double)dense_lse[i]) / (N / 2);
    printf("kept %.0f\nerror %s\n", 100 * kept,
           distance(dense, o, N * D) < 1e-4 ? "zero, but for rounding" : "LARGE");
    printf("one_row %.1f\n", 100.0 / 1024);
    free(work);
    return 0;
}
