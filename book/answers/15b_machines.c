/* Answers to chapter 15b: shares of what a token sends, and how many queries choose half of all blocks. */
#include <parallel/traffic.h>

#include "../examples/example.h"

/* Percent of the bytes that choose blocks. */
static double choosing(const traffic_call *c, double pairs, double *total)
{
    double bytes[TRAFFIC_N_KINDS];
    traffic_pass_q(c, pairs, bytes);
    *total = traffic_sum(bytes);
    return 100 * (bytes[TRAFFIC_INDEX_QUERIES] + bytes[TRAFFIC_CANDIDATES] + bytes[TRAFFIC_WINNERS]) / *total;
}

int main(void)
{
    const msa_shape small = {.n_heads = 16, .n_kv_heads = 2, .d_head = 16, .d_index = 16, .block = 32, .topk = 8};
    const msa_shape m3 = {.n_heads = 64, .n_kv_heads = 4, .d_head = 128, .d_index = 128, .block = 128, .topk = 16};
    const traffic_call here = {&small, 4, 1, 2048, 4, 4, false, 0};
    traffic_call far = {&m3, 64, 1, 1 << 20, 2, 2, false, 0};
    double total;
    printf("share_here %.0f\n", choosing(&here, 6, &total)); /* 2 groups ask 3 owners */
    printf("share_64 %.0f\n", choosing(&far, traffic_expected_pairs(&far), &total));
    far.ranks = 1024;
    printf("share_1024 %.0f\n", choosing(&far, traffic_expected_pairs(&far), &total));
    printf("saved_keys %.1f\n", 100 * (128 * 1.0 - 4.0 / 128) / (2 * (1024 + 128)));
    printf("half %.0f\n", floor(log(0.5) / log(1 - 16 / 512.0)));
    return 0;
}
