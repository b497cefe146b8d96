/* Scores, and the extra passes over the banks. The picture shows the loads of keys by warp 0 of the first CTA: four banks
 * for each lane, and which 8 lanes share a pass. */
#include "../kernel.h"

static void see(kernel_view *view, const simt_access *a)
{
    for (uint64_t word = 0; word < 4 && a->shared && !a->write && a->block == 0 && a->thread < 32; word++)
        touched_mark(&view->picture, view->nth[a->thread] * 4 + a->thread / 8,
                     (int64_t)((a->address / 4 + word) % 32));
    view->nth[a->thread] += a->shared && !a->write && a->block == 0 && a->thread < 32;
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    const msa_shape s = {12, 150, 4, 2, 64, 64, 32, 2, 1, NULL, NULL, NULL, NULL};
    kernel_view view = {.picture = touched_new(32, 32, "8 loads of warp 0, 8 lanes a row",
                                               "bank; colour: lanes of these 8 that want it")};
    view.picture.brightest = 8;
    const kernel_case scored = {.shape = s, .pattern = INPUTS_NORMAL};
    const simt_counters n = kernel_check(&scored, &view, see).n;
    kernel_check(&(kernel_case){.shape = s, .pattern = INPUTS_DYADIC}, NULL, NULL);
    /* A CTA stores its block in 8 accesses of a warp, and each of 4 warps loads it in 8; a row of queries is 4 sectors,
     * each read in two halves. */
    const uint64_t rows = (uint64_t)(s.n_q * s.n_kv_heads), blocks = (uint64_t)msa_n_blocks(&s);
    const uint64_t stored = (uint64_t)s.n_kv * 4 * (n.blocks / blocks);
    if (kernel_counts(&n)) {
        exercise_ladder("shared-memory accesses and conflicts", n.shared_accesses + n.shared_conflicts, 3,
                        (exercise_rung[]){{"the stub", 28080},
                                          {"index/tiled", 4160},
                                          {"without any conflict", 40 * n.blocks}});
        exercise_bar((exercise_count){"bank conflicts", n.shared_conflicts, 0, 0, NULL});
        exercise_bar((exercise_count){"32-byte sectors read", n.load_sectors, 4 * (rows + (uint64_t)s.n_kv),
                                      stored + 8 * rows * blocks, "ld_global(&ki[i])"});
        exercise_bar((exercise_count){"shared memory, bytes", n.shared_bytes, 2048, 4096, "shared<Smem>()"});
        exercise_bar((exercise_count){"shared-memory accesses", n.shared_accesses,
                                      (uint64_t)s.n_kv * 64 * 2 / 512, 40 * n.blocks,
                                      "ld_shared(&m.tile[i][j]) and st_shared"});
    }
    return kernel_end(&scored, &view.picture);
}
