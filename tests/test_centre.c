/* A channel of about 100 in all queries and -100 in all keys, another one in each group: what dQ and dQi have
 * of it cancels, in every kernel of every back end that takes the shape; and keys that nobody attends to have
 * no say in how. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../ref/table/table.h"
#include "../ref/internal.h"
#include "support/check.h"

/* Of the largest element: what bf16 may leave in the large channel, where 0.1 would be left if it stayed in,
 * and in any other. */
#define IN_LARGE 2e-3
#define IN_OTHERS 1e-2
#define LARGE (64 / 3) /* of group 0 and of the index; of group r, r further */

typedef struct problem {
    msa_shape s;
    inputs in;
    int32_t *ids; /* NULL: full support */
    float *o, *lse, *index_lse;
    double *dq, *dqi; /* expected */
    float *rest[5];   /* room for gradients */
} problem;

static void *work_of(const msa_kernel *k, const msa_shape *s)
{
    return check_alloc((int64_t)k->workspace(s) + 1, 1);
}

/* Keys past the first query's local block, and all of block 1 if nobody chose it, become large in one
 * channel. */
static void spoil_others(problem *p)
{
    const msa_shape *s = &p->s;
    for (int64_t j = s->block; p->ids && j < 2 * s->block; j++)
        for (int c = 0; c < s->n_kv_heads * s->d_head; c++)
            p->in.k[j * s->n_kv_heads * s->d_head + c] = 3000;
    for (int64_t j = s->block; p->ids && j < 2 * s->block; j++)
        for (int c = 0; c < s->d_index; c++)
            p->in.ki[j * s->d_index + c] = 3000;
}

/* Where it is in a row of [heads,64], `group` heads a group: kernels take four channels at a time, each by a
 * line of its own. */
static int64_t large_at(int64_t row, int heads, int group)
{
    return LARGE + row % heads / group;
}

static void move_large(float *x, int64_t rows, int heads, int group)
{
    for (int64_t row = 0; row < rows; row++) {
        float *from = x + row * 64 + LARGE, *to = x + row * 64 + large_at(row, heads, group), other = *to;
        *to = *from;
        *from = other;
    }
}

static void make(problem *p, bool full)
{
    const msa_shape *s = &p->s;
    const int64_t nq = s->n_q * s->n_heads * s->d_head, ni = s->n_q * s->n_kv_heads * s->d_index,
                  nk = s->n_kv * s->n_kv_heads * s->d_head;
    inputs drawn;
    double loss;
    if (!inputs_new(&drawn, s, INPUTS_MASSIVE, check_seed(1)) || !inputs_rounded(&p->in, &drawn, s))
        exit(2); /* no memory */
    inputs_free(&drawn);
    move_large(p->in.q, s->n_q * s->n_heads, s->n_heads, s->n_heads / s->n_kv_heads);
    move_large(p->in.k, s->n_kv * s->n_kv_heads, s->n_kv_heads, 1);
    p->ids = full ? NULL : check_ints(s->n_kv_heads * s->n_q * s->topk);
    for (int64_t row = 0; p->ids && row < s->n_kv_heads * s->n_q; row++) { /* block 0 and the local one */
        p->ids[row * 2] = 0;
        p->ids[row * 2 + 1] = (int32_t)((s->n_kv - s->n_q + row % s->n_q) / s->block);
    }
    spoil_others(p);
    p->o = check_floats(nq);
    p->lse = check_floats(s->n_q * s->n_heads);
    p->index_lse = check_floats(s->n_kv_heads * s->n_q);
    for (int a = 0; a < 5; a++)
        p->rest[a] = check_floats(nk > nq ? nk : nq);
    void *work = check_alloc((int64_t)msa_workspace(&msa_ref_ops, s), 1);
    if (full)
        msa_dense(s, p->in.q, p->in.k, p->in.v, p->o, p->lse, work);
    else
        msa_sparse(s, p->in.q, p->in.k, p->in.v, p->ids, p->o, p->lse, work);
    msa_index_lse(s, p->in.qi, p->in.ki, p->ids, p->index_lse);
    msa_backward(s, p->in.q, p->in.k, p->in.v, p->ids, NULL, NULL, p->in.dout, p->rest[0], p->rest[1],
                 p->rest[2], work);
    p->dq = check_widen(p->rest[0], nq);
    msa_kl(s, p->in.q, p->in.k, p->in.qi, p->in.ki, p->ids, NULL, NULL, 1, &loss, p->rest[0], p->rest[1],
           work);
    p->dqi = check_widen(p->rest[0], ni);
}

static void compare(check_case *c, const char *what, const double *expected, const float *found, int64_t n,
                    int heads, int group)
{
    double largest = 0, error[2] = {0, 0}; /* of the others, of the large one */
    for (int64_t a = 0; a < n; a++) {
        double *const e = &error[a % 64 == large_at(a / 64, heads, group)];
        const double d = fabs((double)found[a] - expected[a]);
        largest = fmax(largest, fabs(expected[a]));
        *e = d <= *e || isnan(*e) ? *e : d;
    }
    check_true(c, error[1] <= IN_LARGE * largest && error[0] <= IN_OTHERS * largest,
               "%s is off by %.2g of its largest element, %.2g in the large channel", what,
               error[0] / largest, error[1] / largest);
}

static void judge(check_case *c, const msa_kernel *k, const problem *p)
{
    const msa_shape *s = &p->s;
    const inputs *in = &p->in;
    float *const *x = p->rest;
    double loss;
    char name[96];
    void *work = work_of(k, s);
    snprintf(name, sizeof name, "%s/%s (%s)%s", msa_stage_name(k->stage), k->name, k->backend,
             p->ids ? "" : ", full support");
    msa_arrays a = inputs_arrays(in);
    a.ids = p->ids, a.o = p->o, a.lse = p->lse, a.index_lse = p->ids ? p->index_lse : NULL;
    a.dq = a.dqi = x[0], a.dk = a.dki = x[1], a.dv = x[2], a.weight = 1;
    a.loss = k->stage == MSA_STAGE_KL ? &loss : NULL;
    const msa_status status = k->run(s, &a, work);
    check_true(c, status == MSA_OK, "%s: %s", name, msa_strerror(status));
    if (k->stage == MSA_STAGE_KL)
        compare(c, name, p->dqi, x[0], s->n_q * s->n_kv_heads * s->d_index, 1, 1);
    else
        compare(c, name, p->dq, x[0], s->n_q * s->n_heads * s->d_head, s->n_heads,
                s->n_heads / s->n_kv_heads);
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    for (int full = 0; full < 2; full++) {
        problem p = {.s = {10, 190, 8, 4, 64, 64, 64, 2, 1, NULL, NULL, NULL, NULL}};
        const msa_kernel *k;
        check_case c = check_begin("a massive channel cancels in dq and dqi%s", full ? ", full support" : "");
        make(&p, full);
        for (int i = 0; (k = table_at(i)) != NULL; i++)
            if ((k->stage == MSA_STAGE_BACKWARD || k->stage == MSA_STAGE_KL ||
                 (full && k->stage == MSA_STAGE_DENSE_BACKWARD)) &&
                !table_missing(k->backend))
                judge(&c, k, &p);
        inputs_free(&p.in);
        check_end(&c);
        check_release(NULL);
    }
    return check_done();
}
