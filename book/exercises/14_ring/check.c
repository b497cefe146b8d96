/* Scores, with copies that land late, early and at random; then the clocks that the engine's model of an SM
 * gives to the first CTA, in which what overlaps is counted once. The picture is its timeline. */
#include "../kernel.h"

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    kernel_case scored = {.shape = {13, 300, 2, 2, 64, 64, 32, 2, 1, NULL, NULL, NULL, NULL}, .pattern = INPUTS_NORMAL};
    static const char *const names[] = {"warp 0 waits", "warp 1 waits",   "warp 2 waits",
                                        "warp 3 waits", "producer waits", "copies under way"};
    touched picture = touched_new(6, 96, "warps; copies", "time: 128 clocks of the model a column");
    picture.names = names;
    scored.timeline = &picture;
    scored.column = 128;
    const kernel_result found = kernel_check(&scored, NULL, NULL);
    const simt_counters n = found.n;
    scored.timeline = NULL;
    for (kernel_timing t = KERNEL_LATE; t <= KERNEL_EARLY; t++) {
        scored.timing = t;
        kernel_check(&scored, NULL, NULL);
    }
    if (kernel_counts(&n)) {
        /* A CTA needs every key once, and a barrier after mbarrier_init. The clocks: the latency and the
         * bytes of the first copy are 770; then ten tiles of 32 keys, 11 clocks a key. */
        const uint64_t keys = (uint64_t)scored.shape.n_kv;
        exercise_ladder(
            "clocks of the model", (uint64_t)found.clocks, 4,
            (exercise_rung[]){
                {"the stub", 11130}, {"a ring of 2", 5844}, {"a ring of 3", 4271}, {"a ring of 4", 4189}});
        exercise_bar((exercise_count){"bytes by bulk copies", n.bulk_bytes, keys * 128,
                                      n.blocks * keys * 128, "bulk_load()"});
        exercise_bar((exercise_count){"barriers passed by warps", n.barriers, 0, n.threads / 32,
                                      "__syncthreads()"});
        exercise_bar((exercise_count){"clocks of the model", (uint64_t)found.clocks, 770, 4500, "bulk_load()"});
    }
    return kernel_end(&scored, &picture);
}
