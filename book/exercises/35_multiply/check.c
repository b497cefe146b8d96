/* Scores, and the multiply-adds of the tensor cores: every tile of 16 queries and 8 keys, once. The picture shows the
 * elements of the keys that each lane of the first CTA loads: its part of a fragment. */
#include "../kernel.h"

static const msa_shape shape = {10, 70, 2, 2, 64, 64, 32, 2, 1, NULL, NULL, NULL, NULL};

static void see(kernel_view *view, const simt_access *a)
{
    const uint64_t offset = a->address - view->ki;
    if (!a->shared && !a->write && a->block == 0 && offset < 8 * 128)
        touched_mark(&view->picture, a->thread, (int64_t)(offset / 4));
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    kernel_view view = {
        .picture = touched_new(32, 8 * 32, "lane", "channel pair of keys 0 to 7, 32 pairs each: loads")};
    const kernel_case scored = {.shape = shape, .pattern = INPUTS_NORMAL};
    const simt_counters n = kernel_check(&scored, &view, see).n;
    kernel_check(&(kernel_case){.shape = shape, .pattern = INPUTS_DYADIC}, NULL, NULL);
    const uint64_t tiles = n.blocks * 4;
    if (kernel_counts(&n)) {
        exercise_bar((exercise_count){"tensor multiply-adds", n.tensor_fma, tiles * 16 * 8 * 64,
                                      tiles * 16 * 8 * 64, "mma_m16n8k16()"});
        /* 16 queries and 8 keys for each product of 64 channels; 16 bytes at a time of their 128, so twice 4 sectors. */
        exercise_bar((exercise_count){"32-byte sectors read", n.load_sectors, 4 * (uint64_t)shape.n_kv,
                                      tiles * (16 + 8) * 8, "ld_global(&ki[i])"});
    }
    return kernel_end(&scored, &view.picture);
}
