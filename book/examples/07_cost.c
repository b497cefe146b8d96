/* Chapter 7: the cost model, where 28.4 comes from, and how far a model of cost may be trusted. */
#include "example.h"

int main(void)
{
    msa_shape s = {.n_heads = 64, .n_kv_heads = 4, .d_head = 128, .d_index = 128, .block = 128, .topk = 16};
    const double heads = 64.0 * 128, index_heads = 4.0 * 128, kept = 16.0 * 128;

    printf("tokens    dense GQA      MSA index   MSA blocks   ratio   index share\n");
    for (long n = 1L << 12; n <= 1L << 20; n *= 4) {
        /* [model] */
        double N = (double)n;
        double gqa = 2 * heads * N * N;       /* half of N^2 pairs, 4 operations a channel */
        double index = index_heads * N * N;   /* half of N^2 pairs, 2 operations a channel: no values */
        double blocks = 4 * heads * N * kept; /* k Bk pairs a token, 4 operations a channel */
        /* [model] */
        msa_cost_row row;
        must(msa_cost(&s, n, &row));
        if (gqa != row.flop_gqa || index + blocks != row.flop_msa)
            printf("msa_cost says otherwise\n");
        printf("%7ld %11.3e %14.3e %12.3e %7.2f %11.0f %%\n", n, gqa, index, blocks, row.flop_ratio, 100 * row.index_share);
    }
    printf("without end: %.0f\n", 2 * heads / index_heads);
    printf("cheaper than dense from %.0f tokens on; the index is half of it at %.0f\n",
           ceil(4 * heads * kept / (2 * heads - index_heads)), 4 * heads * kept / index_heads);

    /* [exact] */
    printf("\ncounted pair by pair, operations and model over count\n");
    for (long n = 1L << 12; n <= 1L << 20; n *= 16) {
        double gqa = 0, msa = 0;
        for (long p = 0; p < n; p++) {
            long blocks = p / 128 + 1 < 16 ? p / 128 + 1 : 16;
            long support = (blocks - 1) * 128 + p % 128 + 1; /* the local block is only filled up to p */
            gqa += 4 * heads * (double)(p + 1);
            msa += 2 * index_heads * (double)(p + 1) + 4 * heads * (double)support;
        }
        msa_cost_row row;
        must(msa_cost(&s, n, &row));
        printf("%7ld tokens: GQA %.4f, MSA %.4f, ratio %.2f instead of %.2f\n", n, row.flop_gqa / gqa, row.flop_msa / msa, gqa / msa,
               row.flop_ratio);
    }
    /* [exact] */

    printf("\ndense over MSA    prefill, by operations           decode, by bytes\n"
           "index keys of  16 bits   8 bits  same ids    16 bits   8 bits  same ids\n");
    msa_cost_row row;
    for (long n = 1L << 15; n <= 1L << 20; n *= 2) {
        must(msa_cost(&s, n, &row));
        printf("%7ld %14.2f %8.2f %9.2f %10.2f %8.2f %9.2f\n", n, row.flop_ratio, row.flop_ratio_8,
               row.flop_ratio_exact8, row.bytes_ratio, row.bytes_ratio_8, row.bytes_ratio_exact8);
    }
    printf("scored again at 1048576: %.1f TFLOP beside %.0f of the index; %.1f MB beside %.0f\n",
           row.flop_settle / 1e12, row.flop_msa * row.index_share / 2e12, row.bytes_settle / 1e6,
           128 * 1048576 / 1e6);

    printf("\nbytes read to decode one token at 1048576, one layer\n");
    must(msa_cost(&s, 1L << 20, &row));
    printf("  dense GQA %10.1f MiB\n  MSA       %10.1f MiB, of which index keys %.1f\n  ratio %.2f; with index keys of one byte %.2f\n",
           row.bytes_gqa / 1048576, row.bytes_msa / 1048576, 2.0 * 128, row.bytes_ratio, row.bytes_ratio_8);
    return 0;
}
