/* LSE of every query and head for two selections; products and loads of tiles. The picture: which columns were filled. */
#include "task.h"

static const msa_shape shape = {60, 60, 4, 1, 64, 8, 16, 3, 1, NULL, NULL, NULL, NULL};
static touched filled;

static void note(unit_event what, int64_t key, uint32_t columns)
{
    for (int column = 0; what == UNIT_PRODUCT && column < UNIT_ROWS; column++)
        if (columns >> column & 1)
            touched_mark(&filled, key / UNIT_ROWS, column);
}

/* Products and loads that no answer needs more of: full columns, each chosen block loaded once; and the products of one
 * that gives each row a column of its own. */
static void least(const int32_t *ids, uint64_t *products, uint64_t *loads, uint64_t *alone)
{
    const uint64_t steps = (uint64_t)shape.d_head / UNIT_STEP, heads = (uint64_t)shape.n_heads;
    for (int64_t block = 0; block * shape.block < shape.n_kv; block++) {
        uint64_t rows = 0;
        for (int64_t a = 0; a < shape.n_q * shape.topk; a++)
            rows += ids[a] == block ? heads : 0;
        const uint64_t full = (rows + UNIT_ROWS - 1) / UNIT_ROWS;
        *products += full * steps;
        *alone += rows * steps;
        *loads += (full + (rows > 0)) * steps;
    }
}

int main(int argc, char **argv)
{
    static const selection_kind kind[] = {SELECTION_ANY, SELECTION_LOCAL};
    static const inputs_pattern pattern[] = {INPUTS_NORMAL, INPUTS_LARGE};
    const int64_t rows = shape.n_q * shape.n_heads, n_ids = shape.n_q * shape.topk;
    uint64_t products = 0, loads = 0, bar = 0, load_bar = 0, alone = 0;
    exercise_begin(argc, argv);
    filled = touched_new((shape.n_kv + UNIT_ROWS - 1) / UNIT_ROWS, UNIT_ROWS, "block",
                         "column of the right factor: products in which a row filled it");
    int32_t *ids = answer_given(n_ids * 4, "ids"), *drawn = exercise_alloc(n_ids * 4);
    float *lse = exercise_wanted(rows, "lse"), *found = exercise_floats(rows),
          *expected = exercise_floats(rows);
    float *o = exercise_floats(rows * shape.d_head);
    for (int n = 0; n < 2; n++) {
        const inputs in = exercise_inputs(&shape, pattern[n]);
        for (int64_t i = 0; i < rows * shape.d_head; i++)
            in.q[i] = msa_bf16(in.q[i]);
        for (int64_t i = 0; i < shape.n_kv * shape.d_head; i++)
            in.k[i] = msa_bf16(in.k[i]);
        selection_draw(&shape, kind[n], exercise_seed(), drawn);
        memcpy(ids, drawn, (size_t)n_ids * 4);
        msa_sparse(&shape, in.q, in.k, in.v, drawn, o, expected,
                   exercise_alloc((int64_t)msa_workspace(NULL, &shape)));
        unit_open(&shape, &in, note);
        ANSWER(lse_of_blocks(&shape, ids, lse));
        exercise_take(found, lse, rows);
        exercise_tensor("lse", (verdict_dims){shape.n_q, shape.n_heads, 1}, expected, found,
                        verdict_float32(&shape, &in, ARRAY_LSE, 1));
        products += unit_counted().products;
        loads += unit_counted().loads;
        least(drawn, &bar, &load_bar, &alone);
    }
    exercise_ladder("products of tiles", products, 2,
                    (exercise_rung[]){{"the stub", alone}, {"full columns", bar}});
    exercise_bar((exercise_count){"products of tiles", products, bar, bar, "unit_product()"});
    exercise_bar((exercise_count){"tiles loaded", loads, bar, load_bar, "unit_load_keys()"});
    return exercise_end(&filled);
}
