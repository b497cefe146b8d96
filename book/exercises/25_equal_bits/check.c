/* dQ on three kinds of inputs; its bits in five orders of CTAs and threads; then the bytes. The picture shows
 * which CTAs write to the dQ of which query. */
#include "../kernel.h"

#define VECTOR 128 // bytes of a query, key or value; a row of O, of dQ or of a part has twice as many

static const msa_shape shape = {12, 150, 4, 2, 64, 64, 16, 5, 1, NULL, NULL, NULL, NULL};

static void see(kernel_view *view, const simt_access *a)
{
    const uint64_t row = (a->address - view->dq) / (uint64_t)(2 * VECTOR * shape.n_heads);
    if (!a->shared && a->write && row < (uint64_t)shape.n_q && simt_counts()->launches > 0)
        touched_mark(&view->picture, (int64_t)row, (int64_t)a->block);
}

/* Pairs of a query and a block that it chose, over all groups. */
static uint64_t entries(void)
{
    const int64_t n = shape.n_kv_heads * shape.n_q * shape.topk;
    int32_t *ids = exercise_alloc(n * (int64_t)sizeof *ids);
    uint64_t count = 0;
    selection_draw(&shape, SELECTION_ANY, exercise_seed(), ids);
    for (int64_t a = 0; a < n; a++)
        count += ids[a] >= 0;
    return count;
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    const kernel_case scored = {.shape = shape,
                                .pattern = INPUTS_NORMAL,
                                .task = KERNEL_DQ,
                                .selection = SELECTION_ANY,
                                .timing = KERNEL_AT_RANDOM};
    const uint64_t rows = (uint64_t)(shape.n_q * shape.n_heads), ids = 4 * (uint64_t)(shape.n_q * shape.topk);
    const uint64_t parts = entries() * (uint64_t)(shape.n_heads / shape.n_kv_heads);
    kernel_view view = {.picture =
                            touched_new(shape.n_q, (int64_t)rows / 4, "query", "CTA that writes to its dQ")};
    const simt_counters n = kernel_check(&scored, &view, see).n;
    kernel_repeat(&scored);
    kernel_check(&(kernel_case){.shape = shape,
                                .pattern = INPUTS_PEAKED,
                                .task = KERNEL_DQ,
                                .selection = SELECTION_ENDS,
                                .timing = KERNEL_LATE},
                 NULL, NULL);
    kernel_check(&(kernel_case){.shape = shape,
                                .pattern = INPUTS_DISTINCT,
                                .task = KERNEL_DQ,
                                .selection = SELECTION_LOCAL,
                                .timing = KERNEL_EARLY},
                 NULL, NULL);
    /* K and V once; for each part Q, dO, O and the LSE (by every lane), and the part; the ids for each CTA
     * and for each row of dQ. */
    if (kernel_counts(&n)) {
        /* At least each row's Q, dO, O and, to each, a block. */
        exercise_bar((exercise_count){"bytes written", n.store_bytes, 2 * VECTOR * rows, 2 * VECTOR * (parts + rows),
                                      "st_global(&place, value)"});
        exercise_bar((exercise_count){"bytes read", n.load_bytes, 4 * VECTOR * rows,
                                      2 * VECTOR * (uint64_t)(shape.n_kv * shape.n_kv_heads) + 7 * VECTOR * parts +
                                          ids * (uint64_t)(msa_n_blocks(&shape) * shape.n_kv_heads + shape.n_heads),
                                      "ld_global(&place)"});
    }
    return kernel_end(&scored, &view.picture);
}
