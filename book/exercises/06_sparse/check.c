/* O of every query for three selections, and how many keys were read: those of the support. */
#include "task.h"

static const msa_shape shape = {60, 60, 1, 1, 16, 8, 8, 3, 1, NULL, NULL, NULL, NULL};

static uint64_t support(const int32_t *ids)
{
    uint64_t n = 0;
    for (int64_t i = 0; i < shape.n_q; i++)
        for (int a = 0; a < shape.topk && ids[i * shape.topk + a] >= 0; a++) {
            const int64_t first = (int64_t)ids[i * shape.topk + a] * shape.block;
            n += (uint64_t)(i - first + 1 < shape.block ? i - first + 1 : shape.block);
        }
    return n;
}

static uint64_t judge(inputs_selection kind, touched *seen)
{
    const int64_t n = shape.n_q * shape.d_head;
    const inputs in = exercise_inputs(&shape, INPUTS_DISTINCT);
    const tensor k = {in.k, 1, shape.d_head, seen}, v = {in.v, 1, shape.d_head, NULL};
    float *expected = exercise_floats(n), *found = exercise_floats(n);
    int32_t *ids = exercise_alloc(shape.n_q * shape.topk * 4);
    void *work = exercise_alloc((int64_t)msa_workspace(NULL, &shape));
    inputs_ids(&shape, kind, exercise_seed(), ids);
    msa_sparse(&shape, in.q, in.k, in.v, ids, expected, NULL, work);
    for (seen->row = 0; seen->row < shape.n_q; seen->row++)
        attend_blocks(in.q + seen->row * shape.d_head, &k, &v, seen->row, ids + seen->row * shape.topk,
                      shape.topk, shape.block, found + seen->row * shape.d_head);
    exercise_tensor("o", (verdict_dims){shape.n_q, 1, shape.d_head}, expected, found,
                    verdict_float32(&shape, &in, VERDICT_O, 1));
    return support(ids);
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    touched unseen = touched_new(shape.n_q, shape.n_kv, "", "");
    touched seen = touched_new(shape.n_q, shape.n_kv, "query", "key read");
    uint64_t pairs = judge(INPUTS_IDS_HOT, &unseen) + judge(INPUTS_IDS_LOCAL, &unseen);
    pairs += judge(INPUTS_IDS_RANDOM, &seen);
    exercise_bar("rows of K read", unseen.reads + seen.reads, pairs);
    return exercise_end(&seen);
}
