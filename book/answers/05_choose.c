/* Answers to chapter 5: with and without the local block, steps of an insertion, and scores that rise. */
#include "../examples/example.h"

enum { BLOCKS = 8192, PLACES = 15, ROWS = 40 };

/* The k best of four scores, ids ascending; the local block is the last one, and is taken first if `rule`. */
static void print_choice(const char *name, const int *score, int k, int rule)
{
    int taken[4] = {0};
    taken[3] = rule;
    for (int slot = rule; slot < k; slot++) {
        int best = -1;
        for (int b = 0; b < 4; b++)
            if (!taken[b] && (best < 0 || score[b] > score[best]))
                best = b;
        taken[best] = 1;
    }
    printf("%s", name);
    for (int b = 0; b < 4; b++)
        if (taken[b])
            printf(" %d", b);
    printf("\n");
}

/* A sorted list of the best so far: how many scores enter, and how many places they move others by. */
static void list(double trend, double *entered, double *steps)
{
    static float score[BLOCKS];
    *entered = *steps = 0;
    for (unsigned seed = 1; seed <= ROWS; seed++) {
        float best[PLACES];
        int n = 0;
        noise(score, BLOCKS, seed);
        for (int b = 0; b < BLOCKS; b++) {
            const float x = score[b] + (float)(trend * b / BLOCKS);
            if (n == PLACES && !(x > best[n - 1]))
                continue;
            int at = n < PLACES ? n++ : n - 1;
            for (; at > 0 && x > best[at - 1]; at--, *steps += 1.0 / ROWS)
                best[at] = best[at - 1];
            best[at] = x;
            *entered += 1.0 / ROWS;
        }
    }
}

int main(void)
{
    const int weak[4] = {5, 1, 3, 2}, strong[4] = {5, 1, 3, 4};
    print_choice("weak_with", weak, 2, 1);
    print_choice("weak_without", weak, 2, 0);
    print_choice("strong_with", strong, 2, 1);
    print_choice("strong_without", strong, 2, 0);

    double entered, steps, heap = 0;
    list(0, &entered, &steps);
    heap = entered * 2 * ceil(log2(PLACES + 1));
    printf("entered %.0f\nsteps %.0f\nheap %.0f\n", entered, steps, heap);
    list(1, &entered, &steps);
    printf("trend_1 %.0f\n", entered);
    list(6, &entered, &steps);
    printf("trend_6 %.0f\n", entered);
    return 0;
}
