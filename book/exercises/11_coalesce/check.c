/* Scores, and the sectors that the loads of a warp touch. The picture shows the first CTA, key block 0. */
#include "../kernel.h"

#define KEY_BYTES 128 // 64 channels in bf16

static void see(kernel_view *view, const simt_access *a)
{
    const uint64_t offset = a->address - view->ki;
    if (a->shared || a->write || a->block != 0 || offset >= (uint64_t)view->picture.columns * 32)
        return;
    touched_mark(&view->picture, view->nth[a->thread]++, (int64_t)(offset / 32));
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    const msa_shape s = {12, 150, 4, 2, 64, 64, 32, 2, 1, NULL, NULL, NULL, NULL};
    kernel_view view = {.picture = touched_new(64, 32 * KEY_BYTES / 32, "load of key bytes, in order",
                                               "32-byte sector of key block 0; colour: lanes")};
    const kernel_case scored = {.shape = s, .pattern = INPUTS_NORMAL};
    const simt_counters n = kernel_check(&scored, &view, see).n;
    kernel_check(&(kernel_case){.shape = s, .pattern = INPUTS_DYADIC}, NULL, NULL);
    /* Each row reads its query once a block, and each key that it sees once: 4 sectors a vector. Nobody can do
     * without each of these vectors once. */
    uint64_t vectors = 0;
    for (int64_t i = 0; i < s.n_q; i++)
        vectors += (uint64_t)(s.n_kv_heads * (msa_n_blocks(&s) + s.n_kv - s.n_q + i + 1));
    if (kernel_counts(&n)) {
        exercise_ladder(
            "32-byte sectors read", n.load_sectors, 4,
            (exercise_rung[]){
                {"the stub", 229632}, {"index/naive", 186496}, {"index/tiled", 2160}, {"index/wgmma", 696}});
        exercise_bar((exercise_count){"32-byte sectors read", n.load_sectors,
                                      4 * (uint64_t)(s.n_kv + s.n_q * s.n_kv_heads), 4 * vectors, "ld_global(&ki[i])"});
    }
    return kernel_end(&scored, &view.picture);
}
