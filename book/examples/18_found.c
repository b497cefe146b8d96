/* Chapter 18: what the stored rows of the experiments say, and what a few seeds can say at all. */
#include "experiments.h"

static const char *verdict(double difference, double least)
{
    if (!(fabs(difference) >= least)) /* also of one seed, where least is NaN */
        return "-";
    return difference < 0 ? "better" : "worse";
}

static void held_out_text(const table *t)
{
    const char *column = "bits_per_byte";
    const double deviation = seed_deviation(t, column), base = sum_up(t, "msa", column).mean;
    printf("held-out text seeds  bits per byte  lowest highest  against msa  as means  seed by seed\n");
    for (int r = 0; r < t->rows; r++) {
        if (!is_first(t, r))
            continue;
        const summary s = sum_up(t, t->arm[r], column);
        const pairs p = pair_up(t, t->arm[r], "msa", column);
        printf("  %-11s %5d %14.4f %7.4f %7.4f", t->arm[r], s.n, s.mean, s.low, s.high);
        if (strcmp(t->arm[r], "msa") != 0)
            printf(" %+12.4f  %-9s +-%.4f %s", s.mean - base, verdict(s.mean - base, visible(deviation, s.n)),
                   p.half, verdict(p.mean, p.half));
        printf("\n");
    }
    printf("one seed deviates by %.4f: means of 3 differ by up to %.4f, means of 12 by %.4f\n\n", deviation,
           visible(deviation, 3), visible(deviation, 12));
}

static void associative_recall(const table *t, int length)
{
    printf("recall, %4d tokens  seeds   right   lowest  highest   by quarters of distance\n", length);
    for (int r = 0; r < t->rows; r++) {
        if (!is_first(t, r))
            continue;
        const summary s = sum_up(t, t->arm[r], "accuracy");
        printf("  %-17s %5d %6.1f%% %7.1f%% %7.1f%%  ", t->arm[r], s.n, 100 * s.mean, 100 * s.low,
               100 * s.high);
        for (int quarter = 1; quarter <= 4; quarter++) {
            char name[16];
            snprintf(name, sizeof name, "accuracy_%d", quarter);
            printf(" %6.1f%%", 100 * sum_up(t, t->arm[r], name).mean);
        }
        printf("\n");
    }
    printf("\n");
}

/* [crossover] */
/* Where a ratio passes 1 between two lengths, on a line in logarithms of both. */
static double crossover(double n0, double ratio0, double n1, double ratio1)
{
    return n0 * pow(n1 / n0, log(ratio0) / (log(ratio0) - log(ratio1)));
}
/* [crossover] */

static void cost(const table *t)
{
    const int dense = column_of(t, "dense_ms"), msa = column_of(t, "msa_ms");
    const int model = column_of(t, "model_flop_ratio");
    printf("one layer, ms     dense        MSA   ratio   ratio of operations\n");
    for (int r = 0; r < t->rows; r++) {
        const double *x = t->value[r];
        printf("  %6.0f tokens %9.1f %10.1f %7.2f %12.2f\n", x[0], x[dense], x[msa], x[dense] / x[msa],
               x[model]);
    }
    for (int r = 1; r < t->rows; r++) {
        const double *x = t->value[r - 1], *y = t->value[r];
        if (x[dense] < x[msa] && y[dense] >= y[msa])
            printf("in time MSA pays from %.0f tokens on\n",
                   crossover(x[0], x[dense] / x[msa], y[0], y[dense] / y[msa]));
        if (x[model] < 1 && y[model] >= 1)
            printf("by operations it would from %.0f on\n", crossover(x[0], x[model], y[0], y[model]));
    }
}

int main(void)
{
    static table text, near, far, times;
    read_table("data/experiments/text.csv", &text);
    read_table("data/experiments/retrieval.csv", &near);
    read_table("data/experiments/retrieval-1k.csv", &far);
    read_table("data/experiments/cost.csv", &times);
    held_out_text(&text);
    associative_recall(&near, 512);
    associative_recall(&far, 1024);
    cost(&times);
    return 0;
}
