/**
 * @file test_reference.c
 * @brief The reference against its twin: every stage, over ragged shapes and patterns that do not hide
 * errors.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../ref/judge/judge.h"
#include "support/check.h"
#include "support/twin.h"

#define KL_WEIGHT 0.75
#define RELATIVE 1e-6 // of o, LSE and gradients, in L2 and of each row's largest value

/** One set of inputs in both precisions, and room for what the reference writes. */
typedef struct problem {
    const msa_shape *s;
    const char *pattern;
    inputs in;
    double *q, *k, *v, *qi, *ki, *dout;
    bool *mask;
    double *twin[ARRAY_N];
    float *out[ARRAY_N];
    int32_t *ids, *twin_ids;
    void *work;
} problem;

static int64_t count(const msa_shape *s, array_id t)
{
    verdict_dims n = verdict_dims_of(s, t);
    return n.d0 * n.d1 * n.d2;
}

static int64_t count_ids(const msa_shape *s)
{
    return s->n_kv_heads * s->n_q * s->topk;
}

static problem new_problem(const msa_shape *s, inputs_pattern pattern, uint64_t salt)
{
    problem p = {.s = s, .pattern = inputs_pattern_name(pattern)};
    if (!inputs_new(&p.in, s, pattern, check_seed(salt)))
        return p;
    p.q = check_widen(p.in.q, s->n_q * s->n_heads * s->d_head);
    p.k = check_widen(p.in.k, s->n_kv * s->n_kv_heads * s->d_head);
    p.v = check_widen(p.in.v, s->n_kv * s->n_kv_heads * s->d_head);
    p.qi = check_widen(p.in.qi, s->n_q * s->n_kv_heads * s->d_index);
    p.ki = check_widen(p.in.ki, s->n_kv * s->d_index);
    p.dout = check_widen(p.in.dout, s->n_q * s->n_heads * s->d_head);
    p.mask = check_alloc(s->n_kv_heads * s->n_q * s->n_kv, sizeof *p.mask);
    for (int t = 0; t < ARRAY_N; t++) {
        p.twin[t] = check_doubles(count(s, (array_id)t));
        p.out[t] = check_floats(count(s, (array_id)t));
    }
    p.ids = check_ints(count_ids(s));
    p.twin_ids = check_ints(count_ids(s));
    p.work = check_alloc((int64_t)msa_workspace(&msa_ref_ops, s), 1);
    return p;
}

static void free_problem(problem *p)
{
    inputs_free(&p->in);
    check_release(NULL);
}

// Where the exact value is zero, double arithmetic may leave what float32 may leave, 2^29 times smaller.
static void compare(check_case *c, const problem *p, array_id t, const char *support)
{
    char what[64];
    snprintf(what, sizeof what, "%s of %s, %s", array_name(t), support, p->pattern);
    double zero = verdict_float32(p->s, &p->in, t, KL_WEIGHT).absolute * 0x1p-29;
    check_tensor(c, what, verdict_dims_of(p->s, t), p->twin[t], p->out[t],
                 (verdict_budget){RELATIVE, zero, NULL});
}

/* ---- Stages -------------------------------------------------------------------------------------- */

static void forward(check_case *c, problem *p, const int32_t *ids, const char *support)
{
    const inputs *in = &p->in;
    float *o = p->out[ARRAY_O], *lse = p->out[ARRAY_LSE], *index_lse = p->out[ARRAY_INDEX_LSE];
    msa_status status = ids ? msa_sparse(p->s, in->q, in->k, in->v, ids, o, lse, p->work)
                            : msa_dense(p->s, in->q, in->k, in->v, o, lse, p->work);
    check_true(c, status == MSA_OK, "%s", msa_strerror(status));
    status = msa_index_lse(p->s, in->qi, in->ki, ids, index_lse);
    check_true(c, status == MSA_OK, "%s", msa_strerror(status));
    twin_attention(p->s, p->mask, p->q, p->k, p->v, p->twin[ARRAY_O], p->twin[ARRAY_LSE]);
    twin_index_lse(p->s, p->mask, p->qi, p->ki, p->twin[ARRAY_INDEX_LSE]);
    compare(c, p, ARRAY_O, support);
    compare(c, p, ARRAY_LSE, support);
    compare(c, p, ARRAY_INDEX_LSE, support);
}

static void backward(check_case *c, problem *p, const int32_t *ids, const char *support)
{
    const inputs *in = &p->in;
    msa_status status = msa_backward(p->s, in->q, in->k, in->v, ids, p->out[ARRAY_O], p->out[ARRAY_LSE],
                                     in->dout, p->out[ARRAY_DQ], p->out[ARRAY_DK], p->out[ARRAY_DV], p->work);
    check_true(c, status == MSA_OK, "%s", msa_strerror(status));
    twin_backward(p->s, p->mask, p->q, p->k, p->v, p->dout, p->twin[ARRAY_DQ], p->twin[ARRAY_DK],
                  p->twin[ARRAY_DV]);
    compare(c, p, ARRAY_DQ, support);
    compare(c, p, ARRAY_DK, support);
    compare(c, p, ARRAY_DV, support);
}

static void kl(check_case *c, problem *p, const int32_t *ids, const char *support)
{
    const inputs *in = &p->in;
    double loss, alone;
    msa_status status =
        msa_kl(p->s, in->q, in->k, in->qi, in->ki, ids, p->out[ARRAY_LSE], p->out[ARRAY_INDEX_LSE], KL_WEIGHT,
               &loss, p->out[ARRAY_DQI], p->out[ARRAY_DKI], p->work);
    check_true(c, status == MSA_OK, "%s", msa_strerror(status));
    status = msa_kl(p->s, in->q, in->k, in->qi, in->ki, ids, p->out[ARRAY_LSE], p->out[ARRAY_INDEX_LSE],
                    KL_WEIGHT, &alone, NULL, NULL, p->work);
    check_true(c, status == MSA_OK && alone == loss, "the loss alone, %s", support);
    double expected =
        twin_kl(p->s, p->mask, p->q, p->k, p->qi, p->ki, KL_WEIGHT, p->twin[ARRAY_DQI], p->twin[ARRAY_DKI]);
    check_true(c, fabs(loss - expected) <= fmax(2e-6 * fabs(expected), 1e-9),
               "kl of %s, %s: expected %.12g, found %.12g", support, p->pattern, expected, loss);
    compare(c, p, ARRAY_DQI, support);
    compare(c, p, ARRAY_DKI, support);
}

static void index_stage(check_case *c, problem *p)
{
    msa_status status =
        msa_index(p->s, p->in.qi, p->in.ki, p->out[ARRAY_SCORES], p->ids, p->out[ARRAY_INDEX_LSE], p->work);
    check_true(c, status == MSA_OK, "%s", msa_strerror(status));
    twin_select(p->s, p->qi, p->ki, p->twin[ARRAY_SCORES], p->twin_ids);
    twin_mask(p->s, p->twin_ids, p->mask);
    twin_index_lse(p->s, p->mask, p->qi, p->ki, p->twin[ARRAY_INDEX_LSE]);
    check_same(c, "ids", p->twin_ids, p->ids, (size_t)count_ids(p->s) * sizeof(int32_t));
    check_true(c, msa_check_ids(p->s, p->ids) == MSA_OK, "ids keep their contract, %s", p->pattern);
    compare(c, p, ARRAY_SCORES, "the index");
    compare(c, p, ARRAY_INDEX_LSE, "the index");
}

static void all_stages(const msa_shape *s, uint64_t salt)
{
    static const selection_kind drawn[] = {SELECTION_ANY, SELECTION_ENDS, SELECTION_LOCAL};
    char name[INPUTS_NAME];
    inputs_shape_name(s, name);
    check_case c = check_begin("all stages equal the twin: %s", name);
    for (int pattern = 0; pattern < INPUTS_N_PATTERNS; pattern++) {
        problem p = new_problem(s, (inputs_pattern)pattern, salt);
        index_stage(&c, &p);
        for (int support = -2; support < 3; support++) {
            if (support >= 0)
                selection_draw(s, drawn[support], check_seed(salt + 1), p.ids);
            const int32_t *ids = support == -1 ? NULL : p.ids;
            const char *what = support == -2   ? "selection"
                               : support == -1 ? "full support"
                                               : selection_name(drawn[support]);
            twin_mask(s, ids, p.mask);
            forward(&c, &p, ids, what);
            backward(&c, &p, ids, what);
            kl(&c, &p, ids, what);
        }
        free_problem(&p);
    }
    check_end(&c);
}

// The reference in fenced and poisoned buffers: writes all it should and nothing else, and repeats itself.
static void stays_within_buffers(const msa_shape *s, uint64_t salt)
{
    char name[INPUTS_NAME];
    inputs_shape_name(s, name);
    check_case c = check_begin("the reference keeps to its buffers: %s", name);
    problem p = new_problem(s, INPUTS_NORMAL, salt);
    for (int stage = 0; stage < MSA_N_STAGES; stage++) {
        judge_report report = judge_kernel(msa_ref_ops.stage[stage], s, &p.in, check_seed(salt));
        check_true(&c, report.outcome == JUDGE_PASS && report.used == 0, "%s: %s",
                   msa_stage_name((msa_stage)stage), report.text);
    }
    check_end(&c);
    free_problem(&p);
}

/* ---- Packed batches ------------------------------------------------------------------------------ */

static void run_all(problem *p, double kl_weight, double *loss)
{
    const inputs *in = &p->in;
    msa_index(p->s, in->qi, in->ki, p->out[ARRAY_SCORES], p->ids, p->out[ARRAY_INDEX_LSE], p->work);
    msa_sparse(p->s, in->q, in->k, in->v, p->ids, p->out[ARRAY_O], p->out[ARRAY_LSE], p->work);
    msa_backward(p->s, in->q, in->k, in->v, p->ids, p->out[ARRAY_O], p->out[ARRAY_LSE], in->dout,
                 p->out[ARRAY_DQ], p->out[ARRAY_DK], p->out[ARRAY_DV], p->work);
    msa_kl(p->s, in->q, in->k, in->qi, in->ki, p->ids, p->out[ARRAY_LSE], p->out[ARRAY_INDEX_LSE], kl_weight,
           loss, p->out[ARRAY_DQI], p->out[ARRAY_DKI], p->work);
}

static void copy(float *to, const float *from, int64_t n)
{
    memcpy(to, from, (size_t)n * sizeof *to);
}

// The inputs of one sequence, cut out of the batch.
static problem cut(const problem *batch, const msa_shape *one, msa_seq seq)
{
    problem p = new_problem(one, INPUTS_NORMAL, 0);
    const msa_shape *s = batch->s;
    const int64_t q = s->n_heads * s->d_head, kv = s->n_kv_heads * s->d_head, iq = s->n_kv_heads * s->d_index;
    copy(p.in.q, batch->in.q + seq.q0 * q, seq.n_q * q);
    copy(p.in.dout, batch->in.dout + seq.q0 * q, seq.n_q * q);
    copy(p.in.k, batch->in.k + seq.kv0 * kv, seq.n_kv * kv);
    copy(p.in.v, batch->in.v + seq.kv0 * kv, seq.n_kv * kv);
    copy(p.in.qi, batch->in.qi + seq.q0 * iq, seq.n_q * iq);
    copy(p.in.ki, batch->in.ki + seq.kv0 * s->d_index, seq.n_kv * s->d_index);
    return p;
}

// The sequence's rows of a token-major tensor of the batch.
static const float *rows_of(const problem *batch, const problem *p, msa_seq seq, array_id t)
{
    bool of_keys = t == ARRAY_DK || t == ARRAY_DV || t == ARRAY_DKI;
    int64_t tokens = of_keys ? seq.n_kv : seq.n_q, first = of_keys ? seq.kv0 : seq.q0;
    return batch->out[t] + first * (count(p->s, t) / tokens);
}

static void compare_token_major(check_case *c, const problem *batch, const problem *p, msa_seq seq)
{
    static const array_id same[] = {ARRAY_O, ARRAY_LSE, ARRAY_DQ, ARRAY_DK, ARRAY_DV};
    for (size_t n = 0; n < sizeof same / sizeof *same; n++)
        check_same(c, array_name(same[n]), p->out[same[n]], rows_of(batch, p, seq, same[n]),
                   (size_t)count(p->s, same[n]) * sizeof(float));
    // The weight of a cut sequence makes up for its mean over fewer queries, to within a rounding.
    for (array_id t = ARRAY_DQI; t <= ARRAY_DKI; t++)
        check_tensor(c, array_name(t), verdict_dims_of(p->s, t), check_widen(p->out[t], count(p->s, t)),
                     rows_of(batch, p, seq, t), (verdict_budget){2e-7, 1e-16, NULL});
}

static void compare_group_major(check_case *c, const problem *batch, const problem *p, msa_seq seq)
{
    const msa_shape *s = batch->s;
    int64_t blocks = msa_n_blocks(s), own = msa_n_blocks(p->s);
    for (int r = 0; r < s->n_kv_heads; r++) {
        int64_t from = r * s->n_q + seq.q0, to = r * seq.n_q;
        check_same(c, "ids", p->ids + to * s->topk, batch->ids + from * s->topk,
                   (size_t)(seq.n_q * s->topk) * sizeof(int32_t));
        check_same(c, "index_lse", p->out[ARRAY_INDEX_LSE] + to, batch->out[ARRAY_INDEX_LSE] + from,
                   (size_t)seq.n_q * sizeof(float));
        for (int64_t i = 0; i < seq.n_q; i++) {
            const float *row = batch->out[ARRAY_SCORES] + (from + i) * blocks;
            check_same(c, "scores", p->out[ARRAY_SCORES] + (to + i) * own, row, (size_t)own * sizeof(float));
            for (int64_t b = own; b < blocks; b++)
                check_true(c, row[b] == -INFINITY, "no score past the end of a short sequence");
        }
    }
}

// The rows of x [outer,T,width] that are padding hold `value`, in bits.
static void check_padding(check_case *c, const msa_shape *s, const char *name, const float *x, int64_t outer,
                          int64_t width, float value)
{
    for (int64_t a = 0; a < outer; a++)
        for (int n = 0; n < msa_n_seqs(s) && s->len_q; n++)
            for (int64_t i = s->cu_q[n] + s->len_q[n]; i < s->cu_q[n + 1]; i++)
                for (int64_t e = 0; e < width; e++)
                    check_same(c, name, &value, x + (a * s->n_q + i) * width + e, sizeof value);
}

static void padding_sees_nothing(check_case *c, const problem *p)
{
    const msa_shape *s = p->s;
    const int64_t hkv = s->n_kv_heads, blocks = msa_n_blocks(s);
    check_padding(c, s, "o of padding", p->out[ARRAY_O], 1, s->n_heads * s->d_head, 0);
    check_padding(c, s, "dq of padding", p->out[ARRAY_DQ], 1, s->n_heads * s->d_head, 0);
    check_padding(c, s, "dqi of padding", p->out[ARRAY_DQI], 1, hkv * s->d_index, 0);
    check_padding(c, s, "lse of padding", p->out[ARRAY_LSE], 1, s->n_heads, -INFINITY);
    check_padding(c, s, "index_lse of padding", p->out[ARRAY_INDEX_LSE], hkv, 1, -INFINITY);
    check_padding(c, s, "scores of padding", p->out[ARRAY_SCORES], hkv, blocks, -INFINITY);
    static const array_id of_keys[] = {ARRAY_DK, ARRAY_DV, ARRAY_DKI};
    for (size_t t = 0; t < sizeof of_keys / sizeof *of_keys; t++)
        for (int n = 0; n < msa_n_seqs(s) && s->len_kv; n++) {
            const int64_t width = count(s, of_keys[t]) / s->n_kv;
            for (int64_t a = (s->cu_kv[n] + s->len_kv[n]) * width; a < s->cu_kv[n + 1] * width; a++)
                check_true(c, p->out[of_keys[t]][a] == 0, "%s of padding", array_name(of_keys[t]));
        }
    check_true(c, msa_check_ids(s, p->ids) == MSA_OK, "ids of padding");
    if (s->len_q) { // its first row of ids
        p->ids[(s->cu_q[1] + s->len_q[1]) * s->topk] = 0;
        check_true(c, msa_check_ids(s, p->ids) == MSA_ERR_IDS, "padding must not choose");
        p->ids[(s->cu_q[1] + s->len_q[1]) * s->topk] = -1;
    }
}

// Block mass and recall of a padded batch are those of its queries.
static void recall_of(const problem *p, float *mass, msa_recall_result *result)
{
    void *work = check_alloc((int64_t)msa_recall_workspace(p->s), 1);
    msa_block_mass(p->s, p->in.q, p->in.k, mass, work);
    msa_recall(p->s, p->in.q, p->in.k, p->ids, NULL, result, work);
}

static double real_queries(const msa_shape *s)
{
    double n = 0;
    for (int r = 0; r < msa_n_seqs(s); r++)
        n += (double)msa_get_seq(s, r).n_q;
    return n;
}

// A packed batch, padded or not, is its sequences one by one; what is left over are rows that see nothing.
static void packed_equals_one_by_one(const msa_shape *s, uint64_t salt)
{
    char name[INPUTS_NAME];
    inputs_shape_name(s, name);
    check_case c = check_begin("a packed batch equals its sequences: %s", name);
    problem batch = new_problem(s, INPUTS_NORMAL, salt);
    msa_recall_result all, one_recall, recalled = {0, 0, 0};
    float *mass = check_floats(s->n_kv_heads * s->n_q * msa_n_blocks(s));
    double loss, sum = 0;
    run_all(&batch, KL_WEIGHT, &loss);
    padding_sees_nothing(&c, &batch);
    recall_of(&batch, mass, &all);
    check_padding(&c, s, "mass of padding", mass, s->n_kv_heads, msa_n_blocks(s), 0);
    for (int n = 0; n < msa_n_seqs(s); n++) {
        msa_seq seq = msa_get_seq(s, n);
        if (seq.n_q == 0)
            continue;
        msa_shape one = *s;
        one.n_q = seq.n_q;
        one.n_kv = seq.n_kv;
        one.n_seqs = 1;
        one.cu_q = one.cu_kv = one.len_q = one.len_kv = NULL;
        problem p = cut(&batch, &one, seq);
        double part, share = (double)seq.n_q / real_queries(s);
        run_all(&p, KL_WEIGHT * share, &part);
        sum += part * share;
        compare_token_major(&c, &batch, &p, seq);
        compare_group_major(&c, &batch, &p, seq);
        recall_of(&p, check_floats(s->n_kv_heads * one.n_q * msa_n_blocks(&one)), &one_recall);
        recalled.rows += one_recall.rows;
        recalled.block_recall += one_recall.rows ? one_recall.block_recall * (double)one_recall.rows : 0;
        inputs_free(&p.in);
    }
    check_true(&c, fabs(loss - sum) <= 1e-14 * fabs(sum), "the batch's loss is its queries' mean");
    check_true(&c, all.rows == recalled.rows, "recall counts queries, not padding");
    if (all.rows)
        check_true(&c, fabs(all.block_recall * (double)all.rows - recalled.block_recall) <= 1e-9, "recall");
    check_end(&c);
    free_problem(&batch);
}

/* ---- Everything selected: dense ------------------------------------------------------------------ */

static void all_blocks_equal_dense(uint64_t salt)
{
    check_case c = check_begin("with S <= k * block, MSA is dense causal GQA");
    for (int n = 0; n < inputs_n_shapes; n++) {
        msa_shape s = inputs_shapes[n];
        s.topk = (int)msa_n_blocks(&s);
        problem p = new_problem(&s, INPUTS_NORMAL, salt);
        const inputs *in = &p.in;
        float *o = check_floats(count(&s, ARRAY_O)), *lse = check_floats(count(&s, ARRAY_LSE));
        msa_dense(&s, in->q, in->k, in->v, o, lse, p.work);
        msa_status status = msa_forward(NULL, &s, in->q, in->k, in->v, in->qi, in->ki, NULL, p.ids,
                                        p.out[ARRAY_O], p.out[ARRAY_LSE], NULL, p.work);
        check_true(&c, status == MSA_OK, "%s", msa_strerror(status));
        check_same(&c, "o", o, p.out[ARRAY_O], (size_t)count(&s, ARRAY_O) * sizeof *o);
        check_same(&c, "lse", lse, p.out[ARRAY_LSE], (size_t)count(&s, ARRAY_LSE) * sizeof *lse);
        free_problem(&p);
    }
    check_end(&c);
}

/* ---- What is not finite -------------------------------------------------------------------------- */

// One query, three keys of width 1: a NaN reaches both losses, and an index logit of -inf weighs nothing.
static void not_finite(void)
{
    const msa_shape s = {1, 3, 1, 1, 1, 1, 4, 1, 1, NULL, NULL, NULL, NULL};
    const float q[] = {1}, k[] = {0, NAN, 1}, qi[] = {1}, ki[] = {-INFINITY, 2, 2}, finite[] = {1, 2, 3};
    float lse;
    double loss = 0, reverse = 0;
    void *work = check_alloc((int64_t)msa_workspace(&msa_ref_ops, &s), 1);
    check_case c = check_begin("NaN reaches the losses, an index logit of -inf weighs nothing");
    msa_kl(&s, q, k, qi, finite, NULL, NULL, NULL, 1, &loss, NULL, NULL, work);
    msa_kl_reverse(&s, q, k, qi, finite, NULL, NULL, NULL, 1, &reverse, NULL, NULL, work);
    check_true(&c, isnan(loss) && isnan(reverse), "losses %g and %g", loss, reverse);
    msa_index_lse(&s, qi, ki, NULL, &lse);
    check_true(&c, fabs((double)lse - (2 + log(2))) < 1e-6, "index LSE %g", (double)lse);
    check_end(&c);
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    for (int n = 0; n < inputs_n_shapes; n++) {
        all_stages(&inputs_shapes[n], 2 * (uint64_t)n);
        stays_within_buffers(&inputs_shapes[n], 2 * (uint64_t)n);
        if (inputs_shapes[n].n_seqs > 1)
            packed_equals_one_by_one(&inputs_shapes[n], 2 * (uint64_t)n);
    }
    for (int n = inputs_first_padded; n < inputs_n_all_shapes; n++) {
        packed_equals_one_by_one(&inputs_shapes[n], 2 * (uint64_t)n);
        stays_within_buffers(&inputs_shapes[n], 2 * (uint64_t)n);
    }
    all_blocks_equal_dense(100);
    not_finite();
    return check_done();
}
