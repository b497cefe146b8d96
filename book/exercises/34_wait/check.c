/* Scores, with copies that land at random, as late as allowed and at once. The picture is the timeline of the first CTA. */
#include "../kernel.h"

int main(int argc, char **argv)
{
    static const char *const names[] = {"warp 0 waits", "copy under way"};
    exercise_begin(argc, argv);
    kernel_case scored = {.shape = {3, 150, 2, 2, 64, 64, 32, 2, 1, NULL, NULL, NULL, NULL},
                          .pattern = INPUTS_NORMAL,
                          .timing = KERNEL_LATE};
    touched picture = touched_new(2, 96, "the warp; copies", "time: 64 clocks of the model a column");
    picture.names = names;
    scored.timeline = &picture;
    scored.column = 64;
    const simt_counters n = kernel_check(&scored, NULL, NULL).n;
    scored.timeline = NULL;
    scored.timing = KERNEL_AT_RANDOM;
    kernel_check(&scored, NULL, NULL);
    scored.timing = KERNEL_EARLY;
    kernel_check(&scored, NULL, NULL);
    const uint64_t bytes = n.blocks * (uint64_t)scored.shape.n_kv * 128;
    if (kernel_counts(&n)) {
        exercise_bar((exercise_count){"bytes by bulk copies", n.bulk_bytes, bytes, bytes, "bulk_load()"});
        exercise_bar((exercise_count){"waits of threads", n.mbarrier_waits, 5 * n.blocks, 5 * n.threads,
                                      "mbarrier_wait()"});
    }
    return kernel_end(&scored, &picture);
}
