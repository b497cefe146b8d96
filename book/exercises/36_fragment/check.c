/* Scores, and that each is written once. The picture shows which lane writes which score of the first 16 rows. */
#include "../kernel.h"

static const msa_shape shape = {10, 70, 2, 2, 64, 64, 32, 2, 1, NULL, NULL, NULL, NULL};

static void see(kernel_view *view, const simt_access *a)
{
    if (!a->shared && a->write && a->block == 0)
        touched_mark(&view->picture, view->nth[0]++, a->thread);
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    kernel_view view = {.picture = touched_new(16, 32, "score written, in order", "lane that writes it")};
    const kernel_case scored = {.shape = shape, .pattern = INPUTS_NORMAL};
    const simt_counters n = kernel_check(&scored, &view, see).n;
    kernel_check(&(kernel_case){.shape = shape, .pattern = INPUTS_DISTINCT}, NULL, NULL);
    kernel_check(&(kernel_case){.shape = shape, .pattern = INPUTS_DYADIC}, NULL, NULL);
    const uint64_t bytes = 4 * (uint64_t)(shape.n_q * shape.n_kv_heads * msa_n_blocks(&shape)),
                   tiles = n.blocks * 4;
    /* A CTA has 16 rows and a block; tiles of 8 keys that nobody sees may be left out. */
    const uint64_t needed =
        n.blocks / (uint64_t)msa_n_blocks(&shape) * ((uint64_t)(shape.n_kv - shape.n_q + 8) / 8 + 1);
    if (kernel_counts(&n)) {
        exercise_bar(
            (exercise_count){"bytes written", n.store_bytes, bytes, bytes, "st_global(&scores[i], score)"});
        exercise_bar((exercise_count){"tensor multiply-adds", n.tensor_fma, needed * 16 * 8 * 64,
                                      tiles * 16 * 8 * 64, "mma_m16n8k16()"});
    }
    return kernel_end(&scored, &view.picture);
}
