/* Answers to chapter 7: other sizes, a cheaper index, and a Main Branch that does not reach the full rate. */
#include "../examples/example.h"

static const msa_shape m3 = {
    .n_heads = 64, .n_kv_heads = 4, .d_head = 128, .d_index = 128, .block = 128, .topk = 16};

static msa_cost_row cost(msa_shape s, int64_t n)
{
    msa_cost_row row;
    must(msa_cost(&s, n, &row));
    return row;
}

/* Where the ratios of operations and of bytes end: at a length that no text has. */
static void limits(const char *name, msa_shape s)
{
    const msa_cost_row row = cost(s, INT64_C(1) << 40);
    printf("%s_flop %.0f\n%s_bytes %.0f\n", name, row.flop_ratio, name, row.bytes_ratio);
}

int main(void)
{
    msa_shape wide = m3, narrow = m3;
    wide.topk = 32;
    printf("k32 %.2f\nk32_share %.0f\n", cost(wide, 1 << 20).flop_ratio,
           100 * cost(wide, 1 << 20).index_share);
    int64_t even = 1;
    while (cost(wide, even).index_share < 0.5)
        even *= 2;
    printf("k32_even %ld\n", (long)even);

    for (long n = 1 << 12; n <= 1 << 20; n *= 16)
        if (fabs(cost(m3, n).flop_ratio - 32 * cost(m3, n).index_share) > 1e-9)
            printf("not 32 times the share\n");

    limits("now", m3);
    narrow.d_index = 64;
    limits("narrow", narrow);
    printf("bits_bytes %.0f\n", cost(m3, INT64_C(1) << 40).bytes_ratio_8);

    printf("slower %.1f\n", 1 / 0.4);
    for (long n = 1 << 15; n <= 1 << 20; n *= 32) {
        const msa_cost_row row = cost(m3, n);
        const double index = row.flop_msa * row.index_share, blocks = row.flop_msa - index;
        printf("full_%ldk %.1f\nslow_%ldk %.1f\n", n >> 10, row.flop_ratio, n >> 10,
               row.flop_gqa / (index + blocks / 0.4));
    }
    printf("worst %.2f\nbest %.1f\n", cost(m3, 2048).flop_ratio, cost(m3, 1 << 20).flop_ratio);
    return 0;
}
