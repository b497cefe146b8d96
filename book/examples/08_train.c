/* Chapter 8: a selector learns. What a weight of the index does to the output; its gradient; with and without warmup. */
#include "tiny_selector.h"

enum { STEPS = 240, WARMUP = 80 };
static const float rate = 0.5f;

/* Any function of the output will do as the loss of a language model: here a weighted sum of it. */
static double output_loss(tiny *t)
{
    static float v[T * HKV * DH], weight[T * HQ * DH], o[T * HQ * DH];
    noise(v, T * HKV * DH, 6);
    noise(weight, T * HQ * DH, 7);
    must(msa_sparse(&t->shape, t->q, t->k, v, t->ids, o, NULL, t->work));
    double sum = 0;
    for (int a = 0; a < T * HQ * DH; a++)
        sum += (double)weight[a] * (double)o[a];
    return sum / T;
}

static int changed(const int32_t *a, const int32_t *b)
{
    int rows = 0;
    for (int row = 0; row < HKV * T; row++)
        rows += memcmp(a + row * K, b + row * K, K * sizeof *a) != 0;
    return rows;
}

/* Moves one weight of the index and asks what the output notices. */
static void staircase(tiny *t)
{
    static int32_t before[HKV * T * K];
    tiny_select(t);
    memcpy(before, t->ids, sizeof before);
    double start = output_loss(t), kl = tiny_loss(t, NULL);
    float old = t->wiq[0];
    printf("a weight of Wiq moves by   selections changed   change of the output's loss   of the KL loss\n");
    for (float by = 1e-4f; by < 0.5f; by *= 10) {
        t->wiq[0] = old + by;
        tiny_select(t);
        double now = output_loss(t), now_kl = tiny_loss(t, NULL);
        printf("%25.0e %15d/%d ", (double)by, changed(before, t->ids), HKV * T);
        if (now == start) /* to the last bit */
            printf("%29s", "0");
        else
            printf("%29.2f", now - start);
        printf(" %16.1e\n", now_kl - kl);
    }
    t->wiq[0] = old;
}

/* [difference] */
/* dL/dwiq[a] from two losses, for a fixed support. */
static double difference(tiny *t, const int32_t *ids, int a, float by)
{
    float old = t->wiq[a];
    double loss[2];
    for (int side = 0; side < 2; side++) {
        t->wiq[a] = side ? old + by : old - by;
        msa_ref_ops.gemm(false, false, T, HKV * DI, D, t->x, t->wiq, 0, t->qi);
        loss[side] = tiny_loss(t, ids);
    }
    t->wiq[a] = old;
    return (loss[1] - loss[0]) / (2 * (double)by);
}
/* [difference] */

static void check(tiny *t)
{
    printf("\na weight's gradient        by hand   by two losses\n");
    tiny_select(t);
    for (int full = 1; full >= 0; full--) {
        const int32_t *ids = full ? NULL : t->ids;
        double two = difference(t, ids, 0, 1e-2f);
        tiny_select(t);
        tiny_step(t, ids, 0); /* rate 0: the gradient alone */
        printf("  %-17s %15.5f %15.5f\n", full ? "all visible keys" : "chosen blocks", (double)t->dwiq[0], two);
    }
    msa_shape last = t->shape; /* the last query alone */
    last.n_q = 1;
    static float dqi[HKV * DI], dki[T * DI];
    double loss;
    const int32_t *rows = t->ids;
    int32_t ids[HKV * K];
    for (int r = 0; r < HKV; r++)
        memcpy(ids + r * K, rows + (r * T + T - 1) * K, K * sizeof *ids);
    for (int full = 1; full >= 0; full--) {
        must(msa_kl(&last, t->q + (T - 1) * HQ * DH, t->k, t->qi + (T - 1) * HKV * DI, t->ki, full ? NULL : ids, NULL, NULL, 1, &loss, dqi, dki, t->work));
        int keys = 0;
        for (int j = 0; j < T; j++) {
            int some = 0;
            for (int c = 0; c < DI; c++)
                some |= dki[j * DI + c] != 0;
            keys += some;
        }
        printf("  keys that the last query's loss reaches, %s: %d of %d\n", full ? "all visible" : "chosen blocks", keys, T);
    }
}

int main(void)
{
    static tiny t;
    tiny_init(&t);
    staircase(&t);
    check(&t);
    free(t.work);

    static const int warmup[3] = {STEPS, WARMUP, 0};
    static const char *const name[3] = {"all visible keys throughout", "80 steps so, then chosen blocks", "chosen blocks throughout"};
    for (int run = 0; run < 3; run++) {
        tiny_init(&t);
        printf("\n%-32s    L_KL on    L_KL on     block    score\n%32s    all keys   its blocks   recall   recall\n", name[run], "step");
        /* [train] */
        for (int step = 0; step <= STEPS; step++) {
            tiny_select(&t);
            if (step % WARMUP == 0 || step == 20) {
                msa_recall_result found = tiny_recall(&t);
                printf("%32d %11.2f %12.2f %8.2f %8.2f\n", step, tiny_loss(&t, NULL), tiny_loss(&t, t.ids), found.block_recall, found.score_recall);
            }
            tiny_step(&t, step < warmup[run] ? NULL : t.ids, rate);
        }
        /* [train] */
        free(t.work);
    }
    return 0;
}
