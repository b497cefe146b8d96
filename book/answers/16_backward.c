/* Answers to chapter 16: a query of two blocks in three orders, and bytes of an entry. */
#include "../examples/gradients.h"

#include <string.h>

/* Whether kv_outer leaves the same bits of dQ in three orders of threads. */
static bool same_bits(int topk)
{
    msa_shape s = small_shape();
    s.topk = topk;
    trial t = engine_inputs(&s, "random");
    const long n = (long)(s.n_q * s.n_heads * s.d_head);
    float *first = room(n, sizeof *first);
    bool same = true;
    for (int order = 0; order < 3; order++) {
        run_gradient(&t, "backward/kv_outer", MAIN, order, NULL);
        if (order == 0)
            memcpy(first, t.outputs.dq, (size_t)n * sizeof *first);
        same = same && memcmp(first, t.outputs.dq, (size_t)n * sizeof *first) == 0;
    }
    free(first);
    trial_end(&t);
    return same;
}

int main(void)
{
    engine_needed();
    printf("two %s\nthree %s\n", same_bits(2) ? "the same" : "other", same_bits(3) ? "the same" : "other");
    const double block = 128, width = 128, k = 16, kib = 1024, entries = 131072.0 * 4 * k;
    printf("ratio %.0f\nequal %.0f\n", 1.5 * block / 1, 1.5 * block);
    const double alone = 12 * block * width / kib;
    printf("alone %.0f\nlocal %.0f\nstructured %.0f\nrandom %.0f\n", alone, alone * 16.0 / (8 * k),
           alone * 18.7 / (8 * k), alone * 120.2 / (8 * k));
    const double part = 16 * width; /* numbers of a group's row of dQ */
    printf("half_kib %.0f\nfloat_kib %.0f\nhalf_gb %.0f\nfloat_gb %.0f\n", 2 * 2 * part / kib,
           2 * 4 * part / kib, 2 * part * entries / 1e9, 4 * part * entries / 1e9);
    return 0;
}
