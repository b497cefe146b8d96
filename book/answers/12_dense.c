/* Answers to chapter 12: the ladder with a single query, registers, and clocks of a tile. */
#include "../examples/engine.h"

/* Bytes of Q, K and V that a rung reads for `n_q` queries at the end of 256 tokens. */
static simt_counters count(int n_q, const char *kernel)
{
    const msa_shape s = {.n_q = n_q,
                         .n_kv = 256,
                         .n_heads = 16,
                         .n_kv_heads = 1,
                         .d_head = 128,
                         .d_index = 128,
                         .block = 128,
                         .topk = 2,
                         .n_seqs = 1};
    trial t = engine_inputs(&s, "random");
    const simt_counters n = engine_count(&t, kernel);
    trial_end(&t);
    return n;
}

static void decoding(void)
{
    static const char *const rung[] = {"naive", "tiled", "tensor_core", "hopper"};
    for (int r = 0; r < 4; r++) {
        char kernel[32];
        snprintf(kernel, sizeof kernel, "dense/%s", rung[r]);
        printf("%s_16 %ld\n%s_1 %ld\n", rung[r], (long)count(16, kernel).load_bytes / 1024, rung[r],
               (long)count(1, kernel).load_bytes / 1024);
    }
}

int main(void)
{
    engine_needed();
    decoding();
    const int threads = 4 * 128; /* four consumers of 64 rows */
    printf("limit %d\nneeded %d\nhalf_s %d\n", 65536 / threads, 64 + 64 + 32, 64 + 32 + 16);
    const double rows = 64, keys = 128, d = 64;
    printf("s_clocks %.0f\nproducts %.0f\nexponentials %.0f\n", rows * keys * d / 2048,
           2 * rows * keys * d / 2048, rows * keys / 16);
    printf("five %.1f\n", 100 * 60 / 64.0);
    return 0;
}
