/**
 * @file sample_query.h
 * @brief What sample.c (forward stages), sample_gradients.c and sample_whole.c share.
 */
#ifndef MSA_SAMPLE_QUERY_H
#define MSA_SAMPLE_QUERY_H

#include "sample.h"

/* One query as a call of its own: it sees the first p(i) + 1 keys of its sequence. */
typedef struct query {
    const subject *t;
    sample_verdict *v;
    int64_t i;    /* among the queries of the call */
    int64_t kv0;  /* of its sequence */
    msa_shape s;  /* of the query alone */
    inputs in;    /* views */
    void *work;   /* the reference's */
    int32_t *ids; /* [Hkv,1,k], given or found */
    float *expected, *found;
    double *wide, *noise;
    double loss; /* of KL */
} query;

/* Row i of a tensor whose rows are `width` floats; NULL of none. */
float *sample_row(void *x, int64_t i, int64_t width);
/* Number `a` of a sample of n out of n_rows: a random one of each part, the last part's being the last. */
int64_t sample_pick(int64_t a, int64_t n, int64_t n_rows, uint64_t seed);

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
void sample_fail(sample_verdict *v, const char *fmt, ...);
void sample_no_memory(sample_verdict *v);
bool sample_fetch(const subject *t, sample_verdict *v, array_id a, int64_t first, int64_t n, void *to);
/* The query's part of an output. */
bool sample_fetch_query(query *q, array_id a, void *to);
/* The query's part of an input, where it lies or gathered in *own, which the caller frees. */
const void *sample_given(const query *q, array_id a, float **own);
void sample_compare(sample_verdict *v, const char *what, int64_t row, verdict_dims dims,
                    const double *expected, const float *found, verdict_budget budget);
/* Compares q->found with q->expected. */
void sample_compare_query(query *q, array_id which, verdict_budget budget);

/* Whether it has outputs that belong to no query; the verdict on all outputs then, by the reference on the whole call. */
bool sample_is_whole(const subject *t);
void sample_whole(const subject *t, sample_verdict *v);

/* Gradients: of a query's own tensors, and of n keys' by walking the queries that chose them. */
void sample_backward(query *q);
void sample_kl(query *q);
void sample_keys(const subject *t, sample_verdict *v, int64_t n);
/* The loss against those of n queries alone: exactly if these are all, else within what a sample can tell. */
void sample_loss(const subject *t, sample_verdict *v, const double *loss, int64_t n);

#endif
