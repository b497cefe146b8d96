/* Answers to chapter 11: the sectors of `skewed`, and those that are left if a CTA reads its query once. */
#include "../examples/example.h"

enum { BLOCKS = 8, KEYS = 128, WIDTH = 64, WARPS = KEYS / 32, SECTOR = 32, BF16 = 2 };

int main(void)
{
    const int keys = BLOCKS * KEYS * WIDTH * BF16 / SECTOR; /* by the copy, each once */
    const int query = WIDTH * BF16 / SECTOR;                /* sectors of the whole query */
    const int a_load = 32 * 2 * BF16 / SECTOR,
              loads = WIDTH / 2; /* 32 lanes read 32 different pairs, so many times */
    printf("keys %d\nquery %d\nskewed %d\n", keys, BLOCKS * WARPS * loads * a_load,
           keys + BLOCKS * WARPS * loads * a_load);
    printf("copied_query %d\nonce %d\n", BLOCKS * WARPS * WIDTH, keys + BLOCKS * query);
    return 0;
}
