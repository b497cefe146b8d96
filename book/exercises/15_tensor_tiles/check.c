/* Scores, and the multiply-adds of the tensor cores: tiles of 16 queries and 8 keys in which somebody sees a
 * key. The picture shows the keys that were read, by tile of queries. */
#include "../kernel.h"

static const msa_shape shape = {100, 100, 1, 1, 64, 64, 32, 2, 1, NULL, NULL, NULL, NULL};

static void see(kernel_view *view, const simt_access *a)
{
    const uint64_t key = (a->address - view->ki) / 128;
    if (!a->shared && !a->write && key < (uint64_t)shape.n_kv)
        touched_mark(&view->picture, (int64_t)a->block / msa_n_blocks(&shape), (int64_t)key);
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    kernel_view view = {.picture = touched_new(7, shape.n_kv, "tile of queries", "index key read")};
    const kernel_case scored = {.shape = shape, .pattern = INPUTS_NORMAL};
    const simt_counters n = kernel_check(&scored, &view, see).n;
    kernel_check(&(kernel_case){.shape = shape, .pattern = INPUTS_DYADIC}, NULL, NULL);
    uint64_t tiles = 0;
    for (int64_t row0 = 0; row0 < shape.n_q; row0 += 16) {
        const int64_t last = row0 + 15 < shape.n_q ? row0 + 15 : shape.n_q - 1;
        tiles += (uint64_t)(last / 8 + 1);
    }
    const uint64_t pairs = (uint64_t)(shape.n_q * (shape.n_q + 1) / 2);
    if (kernel_counts(&n))
        exercise_bar((exercise_count){"tensor multiply-adds", n.tensor_fma, pairs * 64, tiles * 16 * 8 * 64,
                                      "mma_m16n8k16()"});
    return kernel_end(&scored, &view.picture);
}
