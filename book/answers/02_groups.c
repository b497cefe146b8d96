/* Answers to chapter 2: heads that share, and what a memory holds. */
#include "../examples/example.h"

enum { HQ = 64, HKV = 4, DH = 128, LAYERS = 60 };

int main(void)
{
    int first = HQ, last = 0;
    for (int h = 0; h < HQ; h++)
        if (h / (HQ / HKV) == 2) {
            first = h < first ? h : first;
            last = h;
        }
    printf("right_first %d\nright_last %d\nwrong", first, last);
    for (int h = 0; h < 12; h++)
        if (h % HKV == 2)
            printf(" %d,", h);
    printf(" ...\n");
    for (int heads = HKV; heads <= HQ; heads += HQ - HKV) {
        const long token = 2L * LAYERS * heads * DH * 2;
        printf("token_%d %ld\ntokens_%d %ld\n", heads, token, heads, (long)(80e9 / (double)token));
    }
    printf("prefill %d\n", 128 * HQ / HKV);
    return 0;
}
