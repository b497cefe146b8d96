/* What every query of two groups may see. */
#include "draw.h"

int main(void)
{
    enum { N = 96, B = 8, K = 4, D = 8, C = 3 };
    static float qi[N * 2 * D], ki[N * D];
    static int32_t ids[2 * N * K];
    noise(qi, N * 2 * D, 31);
    noise(ki, N * D, 32);
    msa_shape s = {.n_q = N, .n_kv = N, .n_heads = 2, .n_kv_heads = 2, .d_head = 1, .d_index = D, .block = B, .topk = K};
    void *w = room(1, msa_workspace(NULL, &s));
    must(msa_index(&s, qi, ki, NULL, ids, NULL, w));
    free(w);
    begin(720, 360, "The tokens that each query attends to, in two groups");
    for (int r = 0; r < 2; r++) {
        double x0 = 40 + 350.0 * r;
        text(x0 + N * C / 2.0, 28, "middle", INK, r ? "group 1" : "group 0");
        for (int i = 0; i < N; i++) {
            box(x0, 42 + i * C, (i + 1) * C, C, PALE, 1);
            for (int a = 0; a < K && ids[(r * N + i) * K + a] >= 0; a++) {
                int b = ids[(r * N + i) * K + a], last = b * B + B - 1 < i ? b * B + B - 1 : i;
                box(x0 + b * B * C, 42 + i * C, (last - b * B + 1) * C, C, b == i / B ? ORANGE : BLUE, 0.9);
            }
        }
        text(x0 + N * C / 2.0, 350, "middle", FAINT, "keys 0 to 95");
    }
    return finish();
}
