/* Answers to chapter 3: the order of merging, how often a maximum rises, and what float32 keeps of an LSE. */
#include "../examples/example.h"

enum { N = 1000, SEEDS = 200 };

static double x[N];

static void draw(unsigned seed, double slope)
{
    static float z[N];
    noise(z, N, seed);
    for (int j = 0; j < N; j++)
        x[j] = (double)z[j] + slope * j / N;
}

/* How often the maximum is raised, if it has to be exceeded by more than `slack`. */
static int rises(int backwards, double slack)
{
    double max = -INFINITY;
    int n = 0;
    for (int j = 0; j < N; j++) {
        const double next = x[backwards ? N - 1 - j : j];
        if (next > max + slack)
            max = next, n++;
    }
    return n;
}

static double mean_rises(double slope, int backwards, double slack, double factor)
{
    double sum = 0;
    for (unsigned seed = 1; seed <= SEEDS; seed++) {
        draw(seed, slope);
        for (int j = 0; j < N; j++)
            x[j] *= factor;
        sum += rises(backwards, slack);
    }
    return sum / SEEDS;
}

/* ---- Three pieces -------------------------------------------------------------------------------------- */

typedef struct piece {
    double lse, o;
} piece;

static piece merge(piece a, piece b)
{
    const double max = fmax(a.lse, b.lse), lse = max + log(exp(a.lse - max) + exp(b.lse - max));
    return (piece){lse, exp(a.lse - lse) * a.o + exp(b.lse - lse) * b.o};
}

int main(void)
{
    const piece a = {8.4, 0.3}, b = {9.3, -1.2}, c = {10, 0.7};
    const piece left = merge(merge(a, b), c), right = merge(a, merge(b, c));
    printf("merged %s\n",
           fabs(left.lse - right.lse) + fabs(left.o - right.o) < 1e-12 ? "equal" : "DIFFERENT");

    printf("oldest_first %.1f\nnewest_first %.1f\n", mean_rises(6, 0, 0, 1), mean_rises(6, 1, 0, 1));

    const double wide = 128, each = mean_rises(0, 0, 0, 1) * (wide + 1 + 8), all = N * (8 + 2 * wide);
    printf("rescaling %.0f\nrow %.0f\nshare %.1f\n", each, all, 100 * each / all);
    printf("weight %.0f\n", exp(8));
    printf("lazy %.1f\neager %.1f\n", mean_rises(0, 0, 8, 3), mean_rises(0, 0, 0, 3));

    const float lse = 1000;
    printf("spacing %.0e\n", (double)(nextafterf(lse, INFINITY) - lse));
    return 0;
}
