/* The selection, and the bytes written: ids and nothing else. The picture shows every 4-byte word written. */
#include "../kernel.h"

static const msa_shape shape = {40, 500, 2, 1, 64, 64, 32, 4, 1, NULL, NULL, NULL, NULL};

static void see(kernel_view *view, const simt_access *a)
{
    const uint64_t blocks = (uint64_t)msa_n_blocks(&shape), k = (uint64_t)shape.topk;
    if (a->shared || !a->write)
        return;
    const uint64_t id = (a->address - view->ids) / 4, score = (a->address - view->work) / 4;
    if (id < (uint64_t)shape.n_q * k)
        touched_mark(&view->picture, (int64_t)(id / k), (int64_t)(blocks + 1 + id % k));
    else
        touched_mark(&view->picture, (int64_t)(score / blocks), (int64_t)(score % blocks));
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    kernel_view view = {.picture = touched_new(shape.n_q, msa_n_blocks(&shape) + 1 + shape.topk, "query",
                                               "words written: scores, then ids")};
    const kernel_case scored = {.shape = shape, .pattern = INPUTS_DYADIC, .task = KERNEL_IDS};
    const simt_counters n = kernel_check(&scored, &view, see).n;
    kernel_check(&(kernel_case){.shape = shape, .pattern = INPUTS_TIES, .task = KERNEL_IDS}, NULL, NULL);
    if (kernel_counts(&n)) {
        const uint64_t ids = (uint64_t)(shape.n_q * shape.n_kv_heads * shape.topk * 4);
        exercise_bar((exercise_count){"kernels launched", n.launches, 1, 1, "LAUNCH()"});
        exercise_bar((exercise_count){"bytes written", n.store_bytes, ids, ids, "st_global(&ids[i], id)"});
    }
    return kernel_end(&scored, &view.picture);
}
