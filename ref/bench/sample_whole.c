/* Verdicts on outputs that belong to no query: the whole call against the reference's. And a query's part of a call. */
#include <stdlib.h>
#include <string.h>

#include "../internal.h"
#include "sample_query.h"

/* ---- A query's part ---------------------------------------------------------------------------------- */

const void *sample_given(const query *q, array_id a, float **own)
{
    const float *x = q->t->given[a];
    const char first = array_sizes(a)[0];
    const msa_shape *s = q->t->s;
    const int64_t all = array_count(s, NULL, a);
    if (first == 'T')
        return x + q->i * (all / s->n_q);
    if (first == 'S')
        return x + q->kv0 * (all / s->n_kv);
    if (!strchr(array_sizes(a), 'T'))
        return x; /* it is nobody's */
    const int64_t groups = s->n_kv_heads, n = array_count(&q->s, NULL, a) / groups,
                  width = all / groups / s->n_q;
    *own = malloc((size_t)(groups * n) * sizeof **own + 1);
    for (int64_t r = 0; *own && r < groups; r++)
        memcpy(*own + r * n, x + (r * s->n_q + q->i) * width, (size_t)n * sizeof **own);
    return *own;
}

/* ---- Whole outputs ------------------------------------------------------------------------------------- */

/* Those of queries are judged query by query, and so are gradients, those of keys by the queries that chose them. */
bool sample_is_whole(const subject *t)
{
    bool whole = false;
    for (array_id a = 0; a < ARRAY_N; a++) {
        const bool gradient = a == ARRAY_DK || a == ARRAY_DV || a == ARRAY_DKI;
        whole = whole || (HAS(t->out, a) && !gradient && !strchr(array_sizes(a), 'T'));
    }
    return whole;
}

static void compare_words(sample_verdict *v, array_id a, int64_t n, const int32_t *expected,
                          const int32_t *found)
{
    for (int64_t i = 0; v->pass && i < n; i++)
        if (found[i] != expected[i])
            sample_fail(v, "%s[%lld]: expected %d, found %d", array_name(a), (long long)i, expected[i],
                        found[i]);
}

static void compare_floats(const subject *t, sample_verdict *v, array_id a, int64_t n, const float *expected,
                           const float *found)
{
    void *const *x = t->given;
    const inputs in = {.q = x[ARRAY_Q],
                       .k = x[ARRAY_K],
                       .v = x[ARRAY_V],
                       .qi = x[ARRAY_QI],
                       .ki = x[ARRAY_KI],
                       .dout = x[ARRAY_DOUT]};
    double *wide = malloc((size_t)n * sizeof *wide + 1);
    if (!wide)
        sample_no_memory(v);
    for (int64_t i = 0; wide && i < n; i++)
        wide[i] = (double)expected[i];
    if (wide)
        sample_compare(v, array_name(a), 0, verdict_dims_of(t->s, a), wide, found,
                       verdict_float32(t->s, &in, a, SUBJECT_KL_WEIGHT));
    free(wide);
}

static void compare_whole(const subject *t, sample_verdict *v, array_id a, const void *expected)
{
    const int64_t n = array_count(t->s, NULL, a);
    float *found = malloc((size_t)n * sizeof *found + 1);
    if (!found)
        sample_no_memory(v);
    else if (sample_fetch(t, v, a, 0, n, found) && array_element(a) == ELEMENT_INTEGER)
        compare_words(v, a, n, expected, (const int32_t *)(const void *)found);
    else if (v->pass)
        compare_floats(t, v, a, n, expected, found);
    free(found);
}

void sample_whole(const subject *t, sample_verdict *v)
{
    void *expected[ARRAY_N] = {0}, *work = malloc(msa_workspace(&msa_ref_ops, t->s) + 1);
    msa_arrays a = {.weight = SUBJECT_KL_WEIGHT};
    bool ok = work != NULL;
    for (array_id i = 0; i < ARRAY_N; i++) {
        if (HAS(t->out, i)) {
            expected[i] = malloc((size_t)array_count(t->s, NULL, i) * 4 + 1);
            ok = ok && expected[i];
        }
        array_set(&a, i, HAS(t->out, i) ? expected[i] : t->given[i]);
    }
    const msa_status status = ok ? msa_ref_ops.stage[t->kernel->stage]->run(t->s, &a, work) : MSA_ERR_SIZE;
    if (!ok)
        sample_no_memory(v);
    else if (status != MSA_OK)
        sample_fail(v, "the reference: %s", msa_strerror(status));
    for (array_id i = 0; i < ARRAY_N; i++) {
        if (expected[i] && v->pass)
            compare_whole(t, v, i, expected[i]);
        free(expected[i]);
    }
    free(work);
}
