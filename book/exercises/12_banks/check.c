/* Scores, and the extra passes over the banks. The picture shows the loads of warp 0 of the first CTA. */
#include "../kernel.h"

static void see(kernel_view *view, const simt_access *a)
{
    if (a->shared && !a->write && a->block == 0 && a->thread < 32)
        touched_mark(&view->picture, view->nth[a->thread]++, (int64_t)(a->address / 4 % 32));
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    const msa_shape s = {12, 150, 4, 2, 64, 64, 32, 2, 1, NULL, NULL, NULL, NULL};
    kernel_view view = {.picture =
                            touched_new(64, 32, "shared load of warp 0, in order", "bank; colour: lanes")};
    const kernel_case scored = {.shape = s, .pattern = INPUTS_NORMAL};
    const simt_counters n = kernel_check(&scored, &view, see).n;
    kernel_check(&(kernel_case){.shape = s, .pattern = INPUTS_DYADIC}, NULL, NULL);
    /* A half of a key is 2 sectors, and so many loads of one query channel touch one sector each. */
    const uint64_t tiles = 2 * n.blocks, rows = (uint64_t)(s.n_q * s.n_kv_heads);
    const uint64_t keys = 2 * (uint64_t)s.n_kv * (n.blocks / (uint64_t)msa_n_blocks(&s));
    /* At least each vector is read once, and each key once from shared memory, in bf16 and 16 bytes a lane. */
    if (kernel_counts(&n)) {
        exercise_bar((exercise_count){"bank conflicts", n.shared_conflicts, 0, 0, NULL});
        exercise_bar((exercise_count){"32-byte sectors read", n.load_sectors,
                                      4 * (rows + (uint64_t)s.n_kv), 2 * keys + 64 * rows * (uint64_t)msa_n_blocks(&s),
                                      "ld_global(&ki[i])"});
        exercise_bar((exercise_count){"shared memory, bytes", n.shared_bytes, 2048, 4608, "shared<Smem>()"});
        exercise_bar((exercise_count){"shared-memory accesses", n.shared_accesses, (uint64_t)s.n_kv * 64 * 2 / 512,
                                      tiles * 32 + 64 * rows * (uint64_t)msa_n_blocks(&s),
                                      "ld_shared(&smem.tile[i][j]) and st_shared"});
    }
    return kernel_end(&scored, &view.picture);
}
