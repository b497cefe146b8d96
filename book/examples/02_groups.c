/* Chapter 2: query heads that share keys and values, what that saves, and the wrong way to share. */
#include "example.h"

enum { T = 200, HQ = 8, HKV = 2, D = 32 };

/* [share] */
/* Gives every query head a copy of the key-value head that it reads: x [T,Hkv,D] to full [T,Hq,D]. */
static void copy_out(const float *x, float *full, int wrong)
{
    const int group = HQ / HKV;
    for (int j = 0; j < T; j++)
        for (int h = 0; h < HQ; h++) {
            int r = wrong ? h % HKV : h / group; /* neighbours share: heads 0..3 read 0, heads 4..7 read 1 */
            for (int c = 0; c < D; c++)
                full[(j * HQ + h) * D + c] = x[(j * HKV + r) * D + c];
        }
}
/* [share] */

int main(void)
{
    float *q = room(T * HQ * D, sizeof *q), *k = room(T * HKV * D, sizeof *k), *v = room(T * HKV * D, sizeof *v);
    float *k_full = room(T * HQ * D, sizeof *k), *v_full = room(T * HQ * D, sizeof *v);
    float *grouped = room(T * HQ * D, sizeof *q), *copied = room(T * HQ * D, sizeof *q);
    noise(q, T * HQ * D, 1);
    noise(k, T * HKV * D, 2);
    noise(v, T * HKV * D, 3);

    msa_shape s = {.n_q = T, .n_kv = T, .n_heads = HQ, .n_kv_heads = HKV, .d_head = D, .d_index = 1, .block = 1, .topk = 1};
    msa_shape full = s;
    full.n_kv_heads = HQ;
    void *work = room(1, msa_workspace(NULL, &full));
    must(msa_dense(&s, q, k, v, grouped, NULL, work));
    for (int wrong = 0; wrong < 2; wrong++) {
        copy_out(k, k_full, wrong);
        copy_out(v, v_full, wrong);
        must(msa_dense(&full, q, k_full, v_full, copied, NULL, work));
        printf("%d query heads on %d key-value heads against a copy for each, r = h %s: largest difference %.2f\n", HQ, HKV,
               wrong ? "% Hkv" : "/ G  ", distance(grouped, copied, T * HQ * D));
    }

    printf("\nkeys and values of one layer, 64 query heads of 128, 2 bytes a number\n");
    printf("key-value heads   bytes a token   at 1M tokens   operations a byte, decoding\n");
    for (int kv_heads = 64; kv_heads >= 1; kv_heads /= 4) {
        long token = 2L * kv_heads * 128 * 2; /* K and V */
        double operations = 4.0 * 64 * 128;   /* of a query token with one key token, all heads */
        printf("%15d %15ld %10.1f GiB %29.1f\n", kv_heads, token, (double)token * (1 << 20) / (1 << 30), operations / (double)token);
    }

    msa_shape odd = s;
    odd.n_kv_heads = 3;
    printf("\n8 query heads on 3 key-value heads: %s\n", msa_strerror(msa_check_shape(&odd)));
    free(q), free(k), free(v), free(k_full), free(v_full), free(grouped), free(copied), free(work);
    return 0;
}
