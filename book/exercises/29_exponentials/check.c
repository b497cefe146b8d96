/* O and LSE on three kinds of logits: level, large, and such that rise from key to key; what the machine did between
 * products. The picture is what was done when, piece by piece of 32 keys. */
#include "../../../ref/judge/noise.h"
#include "task.h"

#define SLACK 8
static const msa_shape shape = {1, 256, 16, 1, 64, 8, 16, 2, 1, NULL, NULL, NULL, NULL};
static touched work, none;
static touched *seen;

static void note(unit_event what, int64_t key, uint32_t columns)
{
    (void)columns;
    touched_mark(seen, (int64_t)what, key / UNIT_STEP);
}

/* Logits of 32 more keys are about 2 powers of 2 higher. */
static void rise(const inputs *in)
{
    for (int h = 0; h < shape.n_heads; h++)
        in->q[h * shape.d_head] = 8;
    for (int64_t j = 0; j < shape.n_kv; j++)
        in->k[j * shape.d_head] = 2.0f * 0.6931472f / UNIT_STEP * (float)j;
}

static void round_all(const inputs *in)
{
    for (int64_t i = 0; i < shape.n_heads * shape.d_head; i++)
        in->q[i] = msa_bf16(in->q[i]);
    for (int64_t i = 0; i < shape.n_kv * shape.d_head; i++) {
        in->k[i] = msa_bf16(in->k[i]);
        in->v[i] = msa_bf16(in->v[i]);
    }
}

/* How often O has to be scaled if a maximum is raised only where a logit is 2^8 above it. */
static uint64_t raises(const inputs *in)
{
    double max[UNIT_ROWS];
    uint64_t n = 0;
    for (int64_t key = 0; key < shape.n_kv; key += UNIT_STEP) {
        bool any = false;
        for (int h = 0; h < UNIT_ROWS; h++) {
            double most = -INFINITY;
            for (int64_t j = key; j < key + UNIT_STEP; j++)
                most =
                    fmax(most, dot_product(in->q + h * shape.d_head, in->k + j * shape.d_head, shape.d_head));
            most *= 1.4426950408889634 / sqrt(shape.d_head);
            if (key > 0 && most <= max[h] + SLACK)
                continue;
            max[h] = most;
            any = true;
        }
        n += any && key > 0;
    }
    return n;
}

static void judge(const char *place, const inputs *in, unit_counts *n)
{
    const int d = shape.d_head;
    static float *o, *lse;
    float *expected = exercise_floats(UNIT_ROWS * d), *expected_lse = exercise_floats(UNIT_ROWS);
    double *noise = exercise_alloc(UNIT_ROWS * d * (int64_t)sizeof *noise);
    if (!o)
        o = exercise_wanted(UNIT_ROWS * d, "o"), lse = exercise_wanted(UNIT_ROWS, "lse");
    msa_dense(&shape, in->q, in->k, in->v, expected, expected_lse,
              exercise_alloc((int64_t)msa_workspace(NULL, &shape)));
    exercise_true(noise_of_rounding(&shape, in->q, in->k, in->v, NULL, false, noise),
                  "no memory for the budget");
    unit_open(&shape, in, note);
    ANSWER(attend_on_tiles(shape.n_kv, d, o, lse));
    verdict_budget budget = verdict_float32(&shape, in, ARRAY_O, 1);
    budget.noise = noise;
    exercise_place(place);
    exercise_tensor("o", (verdict_dims){1, UNIT_ROWS, d}, expected, o, budget);
    exercise_tensor("lse", (verdict_dims){1, UNIT_ROWS, 1}, expected_lse, lse,
                    verdict_float32(&shape, in, ARRAY_LSE, 1));
    exercise_place("");
    const unit_counts more = unit_counted();
    *n = (unit_counts){n->products + more.products, n->loads + more.loads, n->read + more.read,
                       n->exponentials + more.exponentials, n->scaled + more.scaled};
    exercise_take(expected, o, UNIT_ROWS * d);
    exercise_take(expected_lse, lse, UNIT_ROWS);
}

int main(int argc, char **argv)
{
    enum { KINDS = 3 };
    static const inputs_pattern pattern[KINDS] = {INPUTS_NORMAL, INPUTS_LARGE, INPUTS_NORMAL};
    static const char *const place[KINDS] = {"level logits: ", "large logits: ", "rising logits: "};
    unit_counts n = {0};
    uint64_t scaled = 0;
    exercise_begin(argc, argv);
    const uint64_t pieces = KINDS * (uint64_t)shape.n_kv / UNIT_STEP,
                   steps = (uint64_t)shape.d_head / UNIT_STEP;
    work = touched_new(UNIT_EVENTS, shape.n_kv / UNIT_STEP, "loads, products, exponentials, scalings of O",
                       "32 keys of rising logits: how often");
    none = touched_new(1, 1, "", "");
    for (int a = 0; a < KINDS; a++) {
        const inputs in = exercise_inputs(&shape, pattern[a]);
        seen = a == KINDS - 1 ? &work : &none;
        if (a == KINDS - 1)
            rise(&in);
        round_all(&in);
        scaled += raises(&in);
        judge(place[a], &in, &n);
    }
    /* 32 keys: Q and K, K being loaded, twice; V and the weights; O once a scaling. */
    const uint64_t products = 4 * steps * pieces, keys_and_values = 4 * steps * pieces;
    exercise_bar((exercise_count){"products of tiles", n.products, products, products, "unit_product()"});
    exercise_bar((exercise_count){"vectors of exponentials", n.exponentials, pieces * UNIT_STEP,
                                  pieces * UNIT_STEP, "unit_weigh()"});
    exercise_bar((exercise_count){"times that O was scaled", n.scaled, 0, scaled, NULL});
    exercise_bar((exercise_count){"tiles loaded", n.loads, keys_and_values + pieces,
                                  keys_and_values + pieces + KINDS * steps + 2 * steps * scaled,
                                  "unit_load_keys()"});
    exercise_bar((exercise_count){"tiles given to the answer", n.read, 0, KINDS * 2 * steps, NULL});
    return exercise_end(&work);
}
