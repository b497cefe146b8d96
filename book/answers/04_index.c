/* Answers to chapter 4: entries of a list of tokens, the largest of many noise scores, and means of keys. */
#include "../examples/example.h"

enum { D = 32, BLOCK = 32, B = 16, TRIALS = 200 };

/* The largest of n normal numbers, on average: the integral of x over the density of the maximum. */
static double largest(double n)
{
    double mean = 0;
    const double step = 1e-3;
    for (double x = -8; x < 8; x += step) {
        const double below = 0.5 * erfc(-x / sqrt(2)), density = exp(-x * x / 2) / sqrt(2 * acos(-1));
        mean += x * n * pow(below, n - 1) * density * step;
    }
    return mean;
}

/* How many of n scores in random order enter a list of `places`. */
static double enter(double n, double places)
{
    double sum = 0;
    for (double b = 1; b <= n; b++)
        sum += fmin(1, places / b);
    return sum;
}

/* Which block has the best mean, token by token or by the mean of its keys. */
static int best(const float *q, const float *k, int by_key)
{
    double most = -INFINITY;
    int at = 0;
    for (int b = 0; b < B; b++) {
        double sum = 0;
        for (int c = 0; c < D; c++) {
            double key = 0;
            for (int j = 0; j < BLOCK; j++) {
                key += (double)k[(b * BLOCK + j) * D + c];
                sum += by_key ? 0 : (double)q[c] * (double)k[(b * BLOCK + j) * D + c];
            }
            sum += by_key ? (double)q[c] * key : 0;
        }
        if (sum > most)
            most = sum, at = b;
    }
    return at;
}

int main(void)
{
    printf("ids_blocks %.0f\nids_tokens %.0f\n", enter(8192, 15), enter(1 << 20, 2047));
    static const int sizes[] = {16, 32, 128, 1024};
    for (int a = 0; a < 4; a++)
        printf("largest_%d %.2f\n", sizes[a], largest(sizes[a]));
    printf("law_128 %.2f\nlaw_1024 %.2f\n", sqrt(2 * log(128)), sqrt(2 * log(1024)));
    static float q[D], k[B * BLOCK * D];
    int same = 0;
    for (unsigned seed = 1; seed <= TRIALS; seed++) {
        noise(q, D, seed);
        noise(k, B * BLOCK * D, seed + 1000);
        same += best(q, k, 0) == best(q, k, 1);
    }
    printf("same %d of %d\nper_token %d\nper_block %d\n", same, TRIALS, B * BLOCK * D, B * D);
    return 0;
}
