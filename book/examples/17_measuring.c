/* Chapter 17: wrong kernels that look right, what poison and a second verdict catch, and times that scatter. */
#include "mistakes.h"
#include "scatter.h"

#include "../../ref/judge/guard.h"
#include "../../ref/bench/timing.h"

/* ---- Budgets against cosine ---------------------------------------------------------------------------- */

/* Rows whose own cosine is below 0.999. */
static int wrong_rows(const trial_case *t, const float *o)
{
    int n = 0;
    for (int row = 0; row < ROWS; row++)
        n += one_minus_cosine(o + row * D, t->exact + row * D, D) > 1e-3;
    return n;
}

static const char *word(verdict v)
{
    return v.pass ? "right" : "WRONG";
}

static void print_line(const trial_case *t, const char *name, const float *o)
{
    static float stored[SIZE];
    for (int a = 0; a < SIZE; a++)
        stored[a] = msa_bf16(o[a]);
    const verdict v = judge(t, o, false), rounded = judge(t, stored, true);
    printf("  %-28s %9.1e %8d %10.2f %8d  %-5s %10.2f  %s\n", name, one_minus_cosine(o, t->exact, SIZE),
           wrong_rows(t, o), v.used, (int)v.n_bad, word(v), rounded.used, word(rounded));
}

static void budgets(const char *what, trial_case *t)
{
    static workspace w;
    static float o[SIZE];
    printf("%s\n", what);
    printf("  %-28s %9s %8s %10s %8s  %-5s %10s\n", "mistake", "1 - cos", "rows", "budget", "elements", "", "O in bf16:");
    printf("  %-28s %9s %8s %10s %8s  %-5s %10s\n", "", "", "< 0.999", "used", "over it", "", "used");
    void *work = room(1, msa_workspace(NULL, &mistakes_shape));
    must(msa_sparse_bf16(&mistakes_shape, t->in.q, t->in.k, t->in.v, t->ids, o, NULL, work));
    free(work);
    print_line(t, "none: msa_sparse_bf16", o);
    for (int m = NO_MISTAKE; m < N_MISTAKES; m++) {
        w.ticket = 0;
        kernel(&t->in, t->ids, (mistake)m, &w, o);
        print_line(t, m ? mistake_name[m] : "none: this kernel", o);
    }
}

/* ---- Poison, before and after --------------------------------------------------------------------------- */

/* [twice] */
/* A right kernel has used the same buffer before. Then: verdict, a few runs to be timed, verdict. */
static void before_and_after(const trial_case *t, const char *name, mistake m, bool poison)
{
    static workspace w, fresh;
    guard o;
    if (!guard_new(&o, SIZE * sizeof(float)))
        must(MSA_ERR_SIZE);
    w = fresh;
    kernel(&t->in, t->ids, NO_MISTAKE, &w, o.data);
    printf("  %-26s %-12s", name, poison ? "poisoned" : "as it was");
    for (int after = 0; after < 2; after++) {
        for (int run = 0; after && run < 3; run++)
            kernel(&t->in, t->ids, m, &w, o.data);
        if (poison)
            guard_poison(&o);
        kernel(&t->in, t->ids, m, &w, o.data);
        printf("  %s", word(judge(t, o.data, false)));
    }
    printf("\n");
    guard_free(&o);
}
/* [twice] */

static void poison(const trial_case *t)
{
    printf("\nverdicts before and after three more runs, in a buffer that holds an earlier, right result\n");
    for (int poisoned = 0; poisoned < 2; poisoned++) {
        before_and_after(t, "the last query skipped", SKIPPED_QUERY, poisoned);
        before_and_after(t, "a counter cleared once", OLD_TICKET, poisoned);
    }
}

/* ---- Times that scatter --------------------------------------------------------------------------------- */

static double mean(const double *ms, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += ms[i];
    return sum / n;
}

static void draw_series(inputs_rng *rng, double factor, int first, int n, double *ms)
{
    for (int i = 0; i < n; i++)
        ms[i] = factor * invented_ms(rng, first + i);
}

static void print_series(const char *name, double *ms, int n)
{
    const double average = mean(ms, n);
    const timing t = timing_summary(ms, n);
    printf("  %-28s mean %.3f  median %.3f  min %.3f  max %.3f\n", name, average, t.median, t.min, t.max);
}

enum { TRIALS = 2000 };

/* How often, in percent, kernel A looks faster than B although B needs 2 % less. */
static void wrong_order(const char *name, int first, int n)
{
    int by_mean = 0, by_median = 0, by_min = 0;
    inputs_rng rng = {7};
    for (int a = 0; a < TRIALS; a++) {
        double x[100], y[100];
        draw_series(&rng, 1, first, n, x);
        draw_series(&rng, 0.98, first, n, y);
        by_mean += mean(x, n) < mean(y, n);
        const timing tx = timing_summary(x, n), ty = timing_summary(y, n);
        by_median += tx.median < ty.median;
        by_min += tx.min < ty.min;
    }
    printf("  %-28s %6.1f %% %6.1f %% %6.1f %%\n", name, 100.0 * by_mean / TRIALS, 100.0 * by_median / TRIALS,
           100.0 * by_min / TRIALS);
}

static void scatter(void)
{
    double ms[23];
    inputs_rng rng = {8};
    draw_series(&rng, 1, 0, 23, ms);
    double warm[20];
    memcpy(warm, ms + 3, sizeof warm);
    printf("\ninvented times of one kernel, ms\n");
    print_series("23 runs from a cold start", ms, 23);
    print_series("the last 20 of them", warm, 20);
    printf("\nhow often a kernel that needs 2 %% less looks slower\n");
    printf("  %-28s %8s %8s %8s\n", "", "mean", "median", "min");
    wrong_order("1 run", 3, 1);
    wrong_order("3 runs", 3, 3);
    wrong_order("20 runs", 3, 20);
    wrong_order("100 runs", 3, 100);
}

/* ---- Caches and counted work ---------------------------------------------------------------------------- */

/* [copies] */
/* Copies of the inputs to take in turn, so that each has left the cache when it comes back. */
static double copies(double bytes, double cache)
{
    return floor(2 * cache / bytes) + 1;
}
/* [copies] */

static void caches(void)
{
    msa_shape s = {.n_heads = 64, .n_kv_heads = 4, .d_head = 128, .d_index = 128, .block = 128, .topk = 16};
    const double cache = 50e6;
    printf("\none step of decoding in M3's layer, against a cache of 50 MB\n");
    printf("  tokens   MB read   of the cache   copies to take in turn\n");
    for (int64_t n = 1 << 15; n <= 1 << 20; n *= 2) {
        msa_cost_row row;
        must(msa_cost(&s, n, &row));
        printf("  %7d %9.1f %13.2f %17.0f\n", (int)n, row.bytes_msa / 1e6, row.bytes_msa / cache,
               copies(row.bytes_msa, cache));
    }
}

/* Pairs that tiles of `tile` queries and keys multiply, over those that are visible. */
static double executed_over_useful(double n, double tile, bool skip)
{
    const double tiles = n / tile, done = skip ? tiles * (tiles + 1) / 2 : tiles * tiles;
    return done * tile * tile / (n * (n + 1) / 2);
}

static void useful(void)
{
    static const double lengths[] = {512, 4096, 131072};
    printf("\ndense attention in tiles of 128: executed operations over useful ones\n");
    printf("  tokens   tiles nobody sees skipped   all tiles\n");
    for (int a = 0; a < 3; a++)
        printf("  %7.0f %20.3f %18.3f\n", lengths[a], executed_over_useful(lengths[a], 128, true),
               executed_over_useful(lengths[a], 128, false));
}

int main(void)
{
    static trial_case normal, flat;
    make_case(&normal, false);
    make_case(&flat, true);
    printf("%d queries of %d heads at the end of %d tokens; %d blocks of %d; O has %d rows of %d\n", QUERIES,
           HEADS, KEYS, TOPK, BLOCK, ROWS, D);
    budgets("normal inputs", &normal);
    budgets("inputs in [0.5, 1]", &flat);
    poison(&normal);
    scatter();
    caches();
    useful();
    inputs_free(&normal.in);
    inputs_free(&flat.in);
    return 0;
}
