/* Answers to chapter 15: parts for a batch, lengths where terms are equal, and requests of other lengths. */
#include "../examples/engine.h"

static const double groups = 4, width = 128, index_width = 128, kept = 2048;

static double merge_bytes(int parts)
{
    return parts * 64.0 * 2 * (8 + 4 * width);
}

/* KiB that `swapped` reads for four requests, one after the other or filled up to the longest. */
static double read_kib(const int32_t *tokens, int padded)
{
    static const int32_t queries[] = {0, 1, 2, 3, 4};
    int32_t begins[5] = {0};
    for (int a = 0; a < 4; a++)
        begins[a + 1] = begins[a] + tokens[padded ? 3 : a];
    const msa_shape s = {.n_q = 4,
                         .n_kv = begins[4],
                         .n_heads = 16,
                         .n_kv_heads = 1,
                         .d_head = 64,
                         .d_index = 64,
                         .block = 64,
                         .topk = 4,
                         .n_seqs = 4,
                         .cu_q = queries,
                         .cu_kv = begins};
    trial t = engine_inputs(&s, "random");
    const double kib = (double)engine_count(&t, "decode/swapped").load_bytes / 1024;
    trial_end(&t);
    return kib;
}

int main(void)
{
    engine_needed();
    const int rows = 8 * 4, parts = (132 + rows - 1) / rows;
    printf("rows %d\nparts %d\nctas %d\n", rows, parts, rows * parts);
    const double dense = 4 * groups * width, index = 2 * index_width,
                 blocks = dense * kept; /* bytes: of a token, of a token, of a step */
    printf("merge_kib %.0f\nmerge_share %.1f\nat_32k %.1f\n", merge_bytes(parts) / 1024,
           100 * merge_bytes(parts) / blocks, 100 * merge_bytes(parts) / (index * 32768 + blocks));
    printf("even %.0f\nworse_below %.0f\n", blocks / index, ceil(blocks / (dense - index)));
    printf("limit_8 %.0f\n", 4 * 8 * width / index);

    static const int32_t unequal[] = {100, 100, 100, 4096}, chapter[] = {100, 500, 1200, 4096},
                         equal[] = {1200, 1200, 1200, 1200};
    printf("packed %.0f\npadded %.0f\ntimes %.1f\n", read_kib(unequal, 0), read_kib(unequal, 1),
           read_kib(unequal, 1) / read_kib(unequal, 0));
    printf("chapter_times %.1f\n", read_kib(chapter, 1) / read_kib(chapter, 0));
    printf("equal_times %.1f\n", read_kib(equal, 1) / read_kib(equal, 0));
    return 0;
}
