/* O and LSE of all queries for three selections, against msa_sparse; rows of Q, K and V read. Reads of keys
 * are drawn in the row of the query that was fetched last. */
#include "task.h"

static const msa_shape shape = {60, 60, 1, 1, 16, 8, 8, 3, 1, NULL, NULL, NULL, NULL};

typedef struct reads {
    touched q, k, v;
} reads;

/* In the judge's process, for each query that is fetched. */
static void note_query(void *context, int64_t i, int64_t head)
{
    reads *seen = context;
    (void)head;
    seen->k.row = i;
    seen->q.reads++;
}

const float *fetch_query(const task *t, int64_t i)
{
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

/* What the selection needs: keys that somebody sees, and pairs of a query and a chosen block; `alone`: keys, query by query. */
typedef struct need {
    uint64_t keys, pairs, alone;
} need;

static void judge(selection_kind kind, inputs_pattern pattern, reads *seen, need *all)
{
    const int64_t n = shape.n_q * shape.d_head, blocks = msa_n_blocks(&shape);
    const inputs in = exercise_inputs(&shape, pattern);
    float *expected = exercise_floats(n), *found = exercise_wanted(n, "o");
    float *expected_lse = exercise_floats(shape.n_q), *lse = exercise_wanted(shape.n_q, "lse");
    int32_t *ids = answer_given(shape.n_q * shape.topk * 4, "ids"), *first = answer_given((blocks + 1) * 4, "first");
    int32_t *query = answer_given(shape.n_q * shape.topk * 4, "query");
    selection_draw(&shape, kind, exercise_seed(), ids);
    const int32_t pairs = turn_around(ids, first, query);
    const int d = shape.d_head;
    const tensor q = {in.q, 1, d, NULL};
    answer_offer(&(answer_source){in.q, shape.n_q, 1, (size_t)d * 4, "fetch_query(t, %lld)", note_query, seen});
    const task t = {exercise_rows("&t->k", in.k, shape.n_kv, 1, d, &seen->k),
                    exercise_rows("&t->v", in.v, shape.n_kv, 1, d, &seen->v),
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
    ANSWER(attend_all(&t, found, lse));
    exercise_tensor("o", (verdict_dims){shape.n_q, 1, shape.d_head}, expected, found,
                    verdict_float32(&shape, &in, ARRAY_O, 1));
    exercise_tensor("lse", (verdict_dims){shape.n_q, 1, 1}, expected_lse, lse,
                    verdict_float32(&shape, &in, ARRAY_LSE, 1));
    all->pairs += (uint64_t)pairs;
    for (int64_t b = 0; b < blocks; b++) {
        const int64_t end = b * shape.block + shape.block < shape.n_kv ? b * shape.block + shape.block : shape.n_kv;
        const int64_t last = first[b] < first[b + 1] ? query[first[b + 1] - 1] : b * shape.block - 1;
        all->keys += (uint64_t)((last + 1 < end ? last + 1 : end) - b * shape.block);
        for (int32_t a = first[b]; a < first[b + 1]; a++)
            all->alone += (uint64_t)((query[a] + 1 < end ? query[a] + 1 : end) - b * shape.block);
    }
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
    need all = {0, 0, 0};
    judge(SELECTION_ANY, INPUTS_DISTINCT, &seen, &all);
    judge(SELECTION_ENDS, INPUTS_PEAKED, &unseen, &all);
    judge(SELECTION_LOCAL, INPUTS_LARGE, &unseen, &all);
    const uint64_t rows = (uint64_t)(3 * shape.n_kv), queries = (uint64_t)(3 * shape.n_q);
    exercise_ladder("rows of K read", seen.k.reads + unseen.k.reads, 2,
                    (exercise_rung[]){{"the stub", all.alone}, {"a block for all its queries", all.keys}});
    exercise_bar((exercise_count){"rows of K read", seen.k.reads + unseen.k.reads, all.keys, rows, "row(&t->k, j, 0)"});
    exercise_bar((exercise_count){"rows of V read", seen.v.reads + unseen.v.reads, all.keys, rows, "row(&t->v, j, 0)"});
    exercise_bar((exercise_count){"queries fetched", seen.q.reads + unseen.q.reads, queries, all.pairs,
                                  "fetch_query(t, i)"});
    return exercise_end(&seen.k);
}
