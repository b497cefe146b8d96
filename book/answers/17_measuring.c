/* Answers to chapter 17: mistakes that the LSE shows, a clock that drifts, and weights that nobody rounded. */
#include "../examples/mistakes.h"
#include "../examples/scatter.h"

#include "../../ref/bench/timing.h"

enum { RUNS = 20, TRIALS = 2000 };

/* The largest error of a mistake's LSE over all rows. */
static double lse_off(const trial_case *t, mistake m)
{
    static workspace right, wrong;
    static float o[SIZE];
    double most = 0;
    right.ticket = wrong.ticket = 0;
    kernel(&t->in, t->ids, NO_MISTAKE, &right, o);
    kernel(&t->in, t->ids, m, &wrong, o);
    for (int row = 0; row < ROWS; row++)
        most = fmax(most, fabs(right.max[row] + log(right.sum[row]) - wrong.max[row] - log(wrong.sum[row])));
    return most;
}

/* How often B, which needs 2 % less, has the larger median, in percent; each run is slower by 0.1 %. */
static double wrong_order(bool in_turn)
{
    inputs_rng rng = {7};
    int wrong = 0;
    for (int a = 0; a < TRIALS; a++) {
        double ms[2][RUNS];
        for (int run = 0; run < 2 * RUNS; run++) {
            const int b = in_turn ? run % 2 : run / RUNS;
            ms[b][in_turn ? run / 2 : run % RUNS] = (b ? 0.98 : 1) * (1 + 0.001 * run) * invented_ms(&rng, 3);
        }
        wrong += timing_summary(ms[0], RUNS).median < timing_summary(ms[1], RUNS).median;
    }
    return 100.0 * wrong / TRIALS;
}

/* A kernel in float32 that rounds no weight to bf16: the share of the budget that it uses. */
static double unrounded(const trial_case *t)
{
    static float o[SIZE];
    for (int row = 0; row < ROWS; row++) {
        const int i = row / HEADS;
        float sum = 0, out[D] = {0};
        for (int slot = 0; slot < TOPK; slot++)
            for (int64_t j = (int64_t)t->ids[i * TOPK + slot] * BLOCK;
                 j < (t->ids[i * TOPK + slot] + 1) * BLOCK && j <= KEYS - QUERIES + i; j++) {
                const float p = expf((float)(dot(t->in.q + row * D, t->in.k + j * D, D) / sqrt(D)));
                sum += p;
                for (int c = 0; c < D; c++)
                    out[c] += p * t->in.v[j * D + c];
            }
        for (int c = 0; c < D; c++)
            o[row * D + c] = out[c] / sum;
    }
    return judge(t, o, false).used;
}

int main(void)
{
    static trial_case t;
    make_case(&t, false);
    double least = INFINITY;
    for (int m = LOST_ITEM; m < N_MISTAKES; m++)
        least = fmin(least, lse_off(&t, (mistake)m));
    printf("lse_least %.2f\n", least);
    printf("blocks_wrong %.0f\nturns_wrong %.0f\n", wrong_order(false), wrong_order(true));
    printf("unrounded %.0e\n", unrounded(&t));
    printf("gflop %.1f\n", 4 * 128 * 64 * 1024.0 * 1025 / 2 / 1e9);
    inputs_free(&t.in);
    return 0;
}
