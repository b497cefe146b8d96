/**
 * @file kernel_judge.c
 * @brief What a student's kernel wrote, against the reference.
 */
#include "kernel_run.h"

void *kernel_wrote(const kernel_run *r, const void *from, int64_t n)
{
    void *to = exercise_alloc(n * 4);
    exercise_true(r->device->download(to, from, (size_t)n * 4) == MSA_OK, "%s", r->device->trouble());
    return to;
}

static void judge_tensor(const kernel_run *r, array_id t, const float *expected, const float *found)
{
    const msa_shape *s = &r->c->shape;
    const verdict_dims n = verdict_dims_of(s, t);
    exercise_tensor(array_name(t), n, expected, kernel_wrote(r, found, n.d0 * n.d1 * n.d2),
                    verdict_float32(s, &r->in, t, 1));
}

static void judge_ids(const kernel_run *r, const int32_t *expected)
{
    bool ok;
    const msa_shape *s = &r->c->shape;
    const int32_t *found = kernel_wrote(r, r->a.ids, s->n_kv_heads * s->n_q * s->topk);
    const double tolerance = inputs_is_exact(r->in.pattern) ? 0 : 1;
    const verdict_selection v = verdict_ids(s, r->in.qi, r->in.ki, found, tolerance, 0.001, &ok);
    if (ok && !v.pass)
        exercise_ids(s, expected, found);
    exercise_true(ok && v.pass, "ids: too many ties swapped");
}

static void judge_gradient(const kernel_run *r)
{
    const msa_shape *s = &r->c->shape;
    const inputs *in = &r->in;
    const int64_t nk = s->n_kv * s->n_kv_heads * s->d_head;
    float *dq = exercise_floats(s->n_q * s->n_heads * s->d_head);
    void *work = exercise_alloc((int64_t)msa_workspace(NULL, s));
    exercise_true(msa_backward(s, in->q, in->k, in->v, r->ids, NULL, NULL, in->dout, dq, exercise_floats(nk),
                               exercise_floats(nk), work) == MSA_OK,
                  "the reference failed");
    judge_tensor(r, ARRAY_DQ, dq, r->a.dq);
}

static void judge_attention(const kernel_run *r)
{
    const msa_shape *s = &r->c->shape;
    float *o = exercise_floats(s->n_q * s->n_heads * s->d_head), *lse = exercise_floats(s->n_q * s->n_heads);
    kernel_forward(r, o, lse);
    judge_tensor(r, ARRAY_O, o, r->a.o);
    judge_tensor(r, ARRAY_LSE, lse, r->a.lse);
}

static void judge_index(const kernel_run *r)
{
    const msa_shape *s = &r->c->shape;
    float *scores = exercise_floats(s->n_kv_heads * s->n_q * msa_n_blocks(s));
    int32_t *ids = exercise_alloc(s->n_kv_heads * s->n_q * s->topk * (int64_t)sizeof *ids);
    void *work = exercise_alloc((int64_t)msa_workspace(NULL, s));
    exercise_true(msa_index(s, r->in.qi, r->in.ki, scores, ids, NULL, work) == MSA_OK,
                  "the reference failed");
    if (r->c->task == KERNEL_IDS)
        judge_ids(r, ids);
    else
        judge_tensor(r, ARRAY_SCORES, scores, r->a.scores);
}

void kernel_judge(const kernel_run *r)
{
    if (r->c->task == KERNEL_ATTEND)
        judge_attention(r);
    else if (r->c->task == KERNEL_DQ)
        judge_gradient(r);
    else
        judge_index(r);
}
