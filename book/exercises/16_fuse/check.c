/* The selection, the bytes written, which are ids and nothing else, and the sectors read: each key once for 64 rows. The picture
 * shows every 4-byte word written. */
#include "../kernel.h"

#define ROWS 64 // of a CTA

static const msa_shape shape = {50, 500, 4, 2, 64, 64, 32, 4, 1, NULL, NULL, NULL, NULL};

static void see(kernel_view *view, const simt_access *a)
{
    const uint64_t blocks = (uint64_t)msa_n_blocks(&shape), k = (uint64_t)shape.topk;
    if (a->shared || !a->write)
        return;
    const uint64_t id = (a->address - view->ids) / 4, score = (a->address - view->work) / 4;
    if (id < (uint64_t)view->picture.rows * k)
        touched_mark(&view->picture, (int64_t)(id / k), (int64_t)(blocks + 1 + id % k));
    else
        touched_mark(&view->picture, (int64_t)(score / blocks), (int64_t)(score % blocks));
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    const uint64_t rows = (uint64_t)(shape.n_q * shape.n_kv_heads), ids = rows * (uint64_t)shape.topk * 4;
    kernel_view view = {.picture = touched_new((int64_t)rows, msa_n_blocks(&shape) + 1 + shape.topk,
                                               "row (query, group)", "words written: scores, then ids")};
    const kernel_case scored = {.shape = shape, .pattern = INPUTS_DYADIC, .task = KERNEL_IDS};
    const simt_counters n = kernel_check(&scored, &view, see).n;
    kernel_check(&(kernel_case){.shape = shape, .pattern = INPUTS_TIES, .task = KERNEL_IDS}, NULL, NULL);
    if (kernel_counts(&n)) {
        /* Keys of the blocks before the last token's own, 4 sectors each; a query is read in halves of sectors. */
        const uint64_t keys = (uint64_t)((shape.n_kv - 1) / shape.block * shape.block),
                       ctas = (rows + ROWS - 1) / ROWS;
        exercise_ladder("32-byte sectors read", n.load_sectors, 4,
                        (exercise_rung[]){{"the stub", 3069344},
                                          {"index/naive", 3165312},
                                          {"index/fused", 3200},
                                          {"64 rows share each key", ctas * keys * 4 + 8 * rows}});
        exercise_bar((exercise_count){"kernels launched", n.launches, 1, 1, "LAUNCH()"});
        exercise_bar((exercise_count){"bytes written", n.store_bytes, ids, ids, "st_global(&ids[i], id)"});
        exercise_bar((exercise_count){"32-byte sectors read", n.load_sectors, 4 * (keys + rows),
                                      ctas * keys * 4 + 8 * rows, "ld_global(&ki[i])"});
    }
    return kernel_end(&scored, &view.picture);
}
