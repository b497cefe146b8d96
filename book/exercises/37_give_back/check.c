/* Scores, with copies that land at random, as late as allowed and at once. The picture is the timeline of the first CTA. */
#include "../kernel.h"

int main(int argc, char **argv)
{
    static const char *const names[] = {"consumer 0 waits", "consumer 1 waits", "producer waits",
                                        "copies under way"};
    exercise_begin(argc, argv);
    kernel_case scored = {.shape = {5, 150, 1, 1, 64, 64, 32, 2, 1, NULL, NULL, NULL, NULL},
                          .pattern = INPUTS_NORMAL};
    touched picture = touched_new(4, 96, "warps; copies", "time: 40 clocks of the model a column");
    picture.names = names;
    scored.timeline = &picture;
    scored.column = 40;
    const simt_counters n = kernel_check(&scored, NULL, NULL).n;
    scored.timeline = NULL;
    for (kernel_timing t = KERNEL_LATE; t <= KERNEL_EARLY; t++) {
        scored.timing = t;
        kernel_check(&scored, NULL, NULL);
    }
    const uint64_t bytes = n.blocks * (uint64_t)scored.shape.n_kv * 128;
    if (kernel_counts(&n)) {
        exercise_bar((exercise_count){"bytes by bulk copies", n.bulk_bytes, bytes, bytes, "bulk_load()"});
        exercise_bar(
            (exercise_count){"barriers passed by warps", n.barriers, 0, n.threads / 32, "__syncthreads()"});
    }
    return kernel_end(&scored, &picture);
}
