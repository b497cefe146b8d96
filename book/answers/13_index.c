/* Answers to chapter 13: longer lists, other buffers, and CTAs that share the keys of a row. */
#include "../examples/engine.h"
#include "../examples/running_list.h"

enum { BLOCKS = 1024, ROWS = 1024 };

static double enter(double blocks, double places)
{
    double sum = 0;
    for (double b = 1; b <= blocks; b++)
        sum += fmin(1, places / b);
    return sum;
}

/* What `fused` writes for 64 queries at the end of so many keys. */
static simt_counters fused(int n_kv)
{
    const msa_shape s = {.n_q = 64,
                         .n_kv = n_kv,
                         .n_heads = 4,
                         .n_kv_heads = 4,
                         .d_head = 64,
                         .d_index = 128,
                         .block = 128,
                         .topk = 4,
                         .n_seqs = 1};
    trial t = engine_inputs(&s, "random");
    const simt_counters n = engine_count(&t, "index/fused");
    trial_end(&t);
    return n;
}

int main(void)
{
    engine_needed();
    printf("enter_16 %.0f\nenter_32 %.0f\n", enter(8192, 15), enter(8192, 31));
    float *score = room((long)ROWS * BLOCKS, sizeof *score);
    noise(score, (long)ROWS * BLOCKS, 1);
    for (int buffer = 4; buffer <= BUFFER; buffer *= 2) {
        const list_touches n = touch_lists(score, ROWS / LANES, BLOCKS, LANES, buffer);
        printf("candidates_%d %.0f\ninsertions_%d %.0f\n", buffer, n.candidates, buffer, n.insertions);
    }
    free(score);
    const simt_counters alone = fused(1920), shared = fused(4096);
    printf("written %ld\nlaunches %ld\n", (long)shared.store_bytes, (long)shared.launches);
    const long ids = 64 * 4 * 4 * (long)sizeof(int32_t); /* queries, groups, k */
    printf("ids %ld\nids_alone %ld\nids_launches %ld\nentries %ld\n", ids, (long)alone.store_bytes,
           (long)alone.launches, (long)shared.store_bytes - ids);
    printf("three %.0f\n", 3 * enter(8192 / 3.0, 15));
    return 0;
}
