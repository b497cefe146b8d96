/* Answers to chapter 9: what random blocks find, and what a rounded angle depends on. */
#include "../examples/example.h"

/* Expected block recall of k blocks drawn at random, for queries in blocks k .. n - 1. The local block is always
 * taken; it is supposed to be among the best. Of the b others both lists have k - 1. */
static double random_recall(int n, int k)
{
    double sum = 0;
    for (int b = k; b < n; b++)
        sum += (1 + (k - 1.0) * (k - 1.0) / b) / k;
    return sum / (n - k);
}

/* How far the turn between two positions 100 apart is from the exact one, with angles rounded to float32, in radians:
 * the most of a hundred places. */
static double off(int begin)
{
    const float frequency = (float)pow(5e6, -2.0 / 64); /* M3's second pair of channels */
    double most = 0;
    for (int at = begin; at < begin + 100; at++) {
        const float a = (float)at * frequency, b = (float)(at + 100) * frequency;
        most = fmax(most, fabs((double)b - (double)a - 100 * (double)frequency));
    }
    return most;
}

int main(void)
{
    printf("random_768 %.2f\nrandom_1024 %.2f\n", random_recall(24, 8), random_recall(32, 8));
    printf("near %.0e\nfar %.0e\n", off(0), off(1000000));
    printf("mean_score %.2f\n", 0.93 * 0.9);
    return 0;
}
