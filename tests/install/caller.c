/* A program that uses the library and has functions named like those inside it: names.inc has one for every
 * function and object of the library that is not called msa_*, and each ends the program. C and C++. */
#include <msa.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif
void ours_was_called(const char *name);
void ours_was_called(const char *name)
{
    fprintf(stderr, "the library called the caller's %s\n", name);
    exit(1);
}
#define OURS(name)                                                                                           \
    void name(void);                                                                                         \
    void name(void)                                                                                          \
    {                                                                                                        \
        ours_was_called(#name);                                                                              \
    }
#include "names.inc"
/* What the library has as inline functions. */
OURS(position)
OURS(dot)
OURS(axpy)
OURS(arena_over)
OURS(arena_take)
OURS(arena_share)
OURS(arena_bytes)
#ifdef __cplusplus
}
#endif

enum { T = 700, HQ = 4, HKV = 2, D = 64, K = 4, BLOCK = 32 };
static float q[T * HQ * D], k[T * HKV * D], v[T * HKV * D], qi[T * HKV * D], ki[T * D], o[2][T * HQ * D];
static int32_t ids[2][HKV * T * K];

static void draw(float *x, int n)
{
    static unsigned state = 1;
    for (int i = 0; i < n; i++)
        x[i] = (float)((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-23f - 1;
}

int main(void)
{
    msa_shape s;
    memset(&s, 0, sizeof s);
    s.n_q = s.n_kv = T, s.n_heads = HQ, s.n_kv_heads = HKV, s.d_head = s.d_index = D, s.block = BLOCK, s.topk = K;
    draw(q, T * HQ * D), draw(k, T * HKV * D), draw(v, T * HKV * D), draw(qi, T * HKV * D), draw(ki, T * D);
    for (int a = 0; a < 2; a++) {
        const msa_ops *ops = a ? &msa_fast_ops : &msa_ref_ops;
        void *work = malloc(msa_workspace(ops, &s));
        const msa_status status = msa_forward(ops, &s, q, k, v, qi, ki, NULL, ids[a], o[a], NULL, NULL, work);
        free(work);
        if (status != MSA_OK) {
            fprintf(stderr, "%s\n", msa_strerror(status));
            return 1;
        }
    }
    double most = 0;
    for (int i = 0; i < T * HQ * D; i++)
        most = o[0][i] - o[1][i] > most ? o[0][i] - o[1][i] : o[1][i] - o[0][i] > most ? o[1][i] - o[0][i] : most;
    const int same = memcmp(ids[0], ids[1], sizeof ids[0]) == 0 && most < 1e-5 && o[0][T * HQ * D - 1] != 0;
    printf("%s\n", same ? "reference and fast path agree" : "DISAGREE");
    return !same;
}
