/* Answers to chapter 13b: blocks that a bound leaves open, of 32 keys and of 128. */
#include "../examples/screening.h"

enum { KEYS = 65536, QUERIES = 8 };

static void count(int block)
{
    const msa_shape s = {QUERIES, KEYS, 1, 1, D, D, block, K, 1, NULL, NULL, NULL, NULL};
    const long blocks = msa_n_blocks(&s);
    float *ki = room((long)KEYS * D, sizeof *ki), *qi = room(QUERIES * D, sizeof *qi);
    float *numbers = room(4 * blocks, sizeof *numbers);
    int8_t *codes = room((long)KEYS * D, 1);
    int32_t *ids = room(QUERIES * K, sizeof *ids);
    void *work = room((long)msa_index8_workspace(&s), 1);
    const msa_index8 copy = {codes, numbers, numbers + blocks, numbers + 2 * blocks, numbers + 3 * blocks};
    double own[D];
    msa_screening done;
    draw_rows(ki, (long)KEYS * D, 1, 0, 0);
    draw_rows(qi, QUERIES * D, 2, 0, 0);
    msa_index8_keys(&s, NULL, ki, NULL, &copy, own);
    msa_index8_select(&s, qi, 1, ki, &copy, ids, &done, work);
    printf("open_%d %.0f\nblocks_%d %.0f\n", block, (double)done.settled / (double)done.rows, block,
           (double)done.blocks / (double)done.rows);
    free(ki);
    free(qi);
    free(numbers);
    free(codes);
    free(ids);
    free(work);
}

int main(void)
{
    count(32);
    count(128);
    return 0;
}
