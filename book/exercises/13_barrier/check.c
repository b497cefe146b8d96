/* Scores, with the engine's race checker watching; the barriers a warp passes are counted. The picture is
 * the order in which the engine ran the shared accesses of the first CTA. */
#include "../kernel.h"

static void see(kernel_view *view, const simt_access *a)
{
    if (a->shared && a->block == 0)
        touched_mark(&view->picture, a->thread / 32 * 2 + !a->write, view->nth[0]++ / 128);
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    const msa_shape s = {12, 150, 4, 2, 64, 64, 32, 2, 1, NULL, NULL, NULL, NULL};
    kernel_view view = {.picture = touched_new(8, 80, "stores, loads of 4 warps",
                                               "time: 128 shared accesses of the first CTA a column")};
    const kernel_case scored = {.shape = s, .pattern = INPUTS_NORMAL};
    const simt_counters n = kernel_check(&scored, &view, see).n;
    kernel_check(&(kernel_case){.shape = s, .pattern = INPUTS_DYADIC}, NULL, NULL);
    /* Of a tile's keys 128 bytes each, once for 4 rows; of a row's query an element at a time, for each block. */
    const uint64_t warps = n.threads / 32, rows = (uint64_t)(s.n_q * s.n_kv_heads), keys = (uint64_t)s.n_kv,
                   sectors = rows / 4 * keys * 4 + rows * (uint64_t)msa_n_blocks(&s) * 64;
    if (kernel_counts(&n)) {
        exercise_bar((exercise_count){"barriers passed by warps", kernel_barriers(&n), 0, 4 * warps, "__syncthreads()"});
        exercise_bar(
            (exercise_count){"32-byte sectors read", n.load_sectors, 4 * keys, sectors, "ld_global(&ki[i])"});
    }
    return kernel_end(&scored, &view.picture);
}
