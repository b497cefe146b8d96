/* O and LSE of a new token after a long text and after a short one, in which some warps have no key; then the
 * barriers and the sectors. The picture is the timeline of the first CTA. */
#include "../kernel.h"

#define SECTORS 4 // of a key, value or query: 64 channels in bf16

static kernel_case new_token(int64_t n_kv, inputs_pattern pattern)
{
    return (kernel_case){.shape = {1, n_kv, 2, 2, 64, 64, 32, 8, 1, NULL, NULL, NULL, NULL},
                         .pattern = pattern,
                         .task = KERNEL_ATTEND,
                         .selection = SELECTION_LOCAL,
                         .timing = KERNEL_AT_RANDOM};
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    kernel_case scored = new_token(500, INPUTS_NORMAL);
    static const char *const names[] = {"warp 0 waits", "warp 1 waits", "warp 2 waits", "warp 3 waits"};
    touched picture = touched_new(4, 120, "warp", "time: 32 clocks of the model a column; colour: waits");
    picture.names = names;
    scored.timeline = &picture;
    scored.column = 32;
    const simt_counters n = kernel_check(&scored, NULL, NULL).n;
    scored.timeline = NULL;
    exercise_place("fewer keys than warps: ");
    for (int64_t n_kv = 1; n_kv <= 3; n_kv++) {
        const kernel_case few = new_token(n_kv, INPUTS_DISTINCT);
        kernel_check(&few, NULL, NULL);
    }
    exercise_place("");
    const kernel_case peaked = new_token(470, INPUTS_PEAKED);
    kernel_check(&peaked, NULL, NULL);
    /* The last 8 blocks, each key and value once; the query once a warp; twice an id for each key and for one
     * beyond. */
    const msa_shape *s = &scored.shape;
    const uint64_t keys = (uint64_t)(s->n_kv - (msa_n_blocks(s) - s->topk) * s->block);
    if (kernel_counts(&n)) {
        exercise_ladder("barriers passed by warps", kernel_barriers(&n), 2,
                        (exercise_rung[]){{"the stub", 984}, {"a merge at the end", 8}});
        exercise_bar((exercise_count){"barriers passed by warps", kernel_barriers(&n), 0, n.threads / 32,
                                      "__syncthreads()"});
        exercise_bar((exercise_count){"32-byte sectors read", n.load_sectors,
                                      (uint64_t)s->n_heads * (2 * SECTORS * keys + SECTORS),
                                      n.blocks * (2 * SECTORS * keys + 4 * SECTORS + 2 * (keys + 4)),
                                      "ld_global(&k[i])"});
    }
    return kernel_end(&scored, &picture);
}
