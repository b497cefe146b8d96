/* Scores, with copies that land late and early; then the bytes that the copy unit moved, and those that threads
 * loaded. The picture shows which load of a thread read which sector of the keys. */
#include "../kernel.h"

static const msa_shape shape = {3, 150, 2, 2, 64, 64, 32, 2, 1, NULL, NULL, NULL, NULL};

static void see(kernel_view *view, const simt_access *a)
{
    const uint64_t offset = a->address - view->ki;
    if (!a->shared && !a->write && a->block == 0 && offset < (uint64_t)shape.n_kv * 128)
        touched_mark(&view->picture, a->thread, (int64_t)(offset / 32));
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    kernel_view view = {.picture = touched_new(32, 32 * 4, "thread of the first CTA",
                                               "sector of its keys that it loads itself: none, in the end")};
    kernel_case scored = {.shape = shape, .pattern = INPUTS_NORMAL};
    const simt_counters n = kernel_check(&scored, &view, see).n;
    for (kernel_timing t = KERNEL_LATE; t <= KERNEL_EARLY; t++) {
        scored.timing = t;
        kernel_check(&scored, NULL, NULL);
    }
    /* A CTA copies its block, the last one what there is of it; each lane reads its pair of the query. */
    const uint64_t rows = (uint64_t)(shape.n_q * shape.n_kv_heads), bytes = rows * (uint64_t)shape.n_kv * 128;
    if (kernel_counts(&n)) {
        exercise_bar((exercise_count){"bytes by bulk copies", n.bulk_bytes, bytes, bytes, "bulk_load()"});
        exercise_bar((exercise_count){"bytes loaded by threads", n.load_bytes - n.bulk_bytes, 128 * rows,
                                      128 * n.blocks, "ld_global(&qi[i])"});
    }
    return kernel_end(&scored, &view.picture);
}
