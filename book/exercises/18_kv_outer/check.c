/* O and LSE of all queries for three selections, against msa_sparse; rows of Q, K and V read. Reads of keys
 * are drawn in the row of the query that was fetched last. */
#include "task.h"

static const msa_shape shape = {60, 60, 1, 1, 16, 8, 8, 3, 1, NULL, NULL, NULL, NULL};

typedef struct reads {
    touched q, k, v;
} reads;

const float *fetch_query(const task *t, int64_t i)
{
    t->k.seen->row = i;
    return row(t->q, i, 0);
}

/* The queries of each block: msa_reverse's entries without their slots. Returns how many there are. */
static int32_t turn_around(const int32_t *ids, int32_t *first, int32_t *query)
{
    const int64_t n = shape.n_q * shape.topk;
    uint32_t *entry = exercise_alloc(n * 4);
    msa_reverse(&shape, ids, first, entry,
                exercise_alloc(msa_first_item(&shape, 1) * (int64_t)sizeof(msa_item)),
                exercise_alloc((int64_t)msa_workspace(NULL, &shape)));
    const int32_t used = first[msa_n_blocks(&shape)];
    for (int32_t a = 0; a < used; a++)
        query[a] = (int32_t)(entry[a] >> 5);
    return used;
}

static uint64_t judge(inputs_selection kind, inputs_pattern pattern, reads *seen)
{
    const int64_t n = shape.n_q * shape.d_head, blocks = msa_n_blocks(&shape);
    const inputs in = exercise_inputs(&shape, pattern);
    float *expected = exercise_floats(n), *found = exercise_floats(n);
    float *expected_lse = exercise_floats(shape.n_q), *lse = exercise_floats(shape.n_q);
    int32_t *ids = exercise_alloc(shape.n_q * shape.topk * 4), *first = exercise_alloc((blocks + 1) * 4);
    int32_t *query = exercise_alloc(shape.n_q * shape.topk * 4);
    inputs_ids(&shape, kind, exercise_seed(), ids);
    const int32_t pairs = turn_around(ids, first, query);
    const tensor q = {in.q, 1, shape.d_head, &seen->q};
    const task t = {{in.k, 1, shape.d_head, &seen->k},
                    {in.v, 1, shape.d_head, &seen->v},
                    shape.n_q,
                    blocks,
                    shape.block,
                    shape.topk,
                    ids,
                    first,
                    query,
                    &q};
    seen->k.row = 0;
    msa_sparse(&shape, in.q, in.k, in.v, ids, expected, expected_lse,
               exercise_alloc((int64_t)msa_workspace(NULL, &shape)));
    attend_all(&t, found, lse);
    exercise_tensor("o", (verdict_dims){shape.n_q, 1, shape.d_head}, expected, found,
                    verdict_float32(&shape, &in, VERDICT_O, 1));
    exercise_tensor("lse", (verdict_dims){shape.n_q, 1, 1}, expected_lse, lse,
                    verdict_float32(&shape, &in, VERDICT_LSE, 1));
    return (uint64_t)pairs;
}

static reads new_reads(void)
{
    return (reads){touched_new(1, shape.n_q, "", ""),
                   touched_new(shape.n_q, shape.n_kv, "query fetched last", "key read"),
                   touched_new(1, shape.n_kv, "", "")};
}

int main(int argc, char **argv)
{
    exercise_begin(argc, argv);
    reads seen = new_reads(), unseen = new_reads();
    uint64_t pairs = judge(INPUTS_IDS_RANDOM, INPUTS_DISTINCT, &seen);
    pairs += judge(INPUTS_IDS_HOT, INPUTS_PEAKED, &unseen) + judge(INPUTS_IDS_LOCAL, INPUTS_LARGE, &unseen);
    exercise_bar("rows of K read", seen.k.reads + unseen.k.reads, (uint64_t)(3 * shape.n_kv));
    exercise_bar("rows of V read", seen.v.reads + unseen.v.reads, (uint64_t)(3 * shape.n_kv));
    exercise_bar("queries fetched", seen.q.reads + unseen.q.reads, pairs);
    return exercise_end(&seen.k);
}
