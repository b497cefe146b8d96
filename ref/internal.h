/* What the files of the reference share: dot products, softmax rows, supports, workspace. */
#ifndef MSA_INTERNAL_H
#define MSA_INTERNAL_H

#include <math.h>
#include <string.h>

#include "arena.h"
#include "msa_layer.h"

/* Returns from the calling function unless the call succeeded. */
#define MSA_TRY(call)                                                                                        \
    do {                                                                                                     \
        msa_status try_status_ = (call);                                                                     \
        if (try_status_ != MSA_OK)                                                                           \
            return try_status_;                                                                              \
    } while (0)

static inline int64_t min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t max_i64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* a . b in double. Products of floats are exact there; four partial sums let the machine overlap them. */
static inline double dot(const float *a, const float *b, int n)
{
    double s[4] = {0, 0, 0, 0};
    int i = 0;
    for (; i + 4 <= n; i += 4)
        for (int l = 0; l < 4; l++)
            s[l] += (double)a[i + l] * (double)b[i + l];
    for (; i < n; i++)
        s[0] += (double)a[i] * (double)b[i];
    return (s[0] + s[1]) + (s[2] + s[3]);
}

/* acc += w x */
static inline void axpy(double w, const float *x, int n, double *acc)
{
    for (int i = 0; i < n; i++)
        acc[i] += w * (double)x[i];
}

/* Turns logits x[n] into unnormalised weights exp(x - max); returns their LSE, and their sum through
 * `denom`. As in a tensor-core kernel, with bf16 the sum is float32 over unrounded weights, and the
 * weights are then rounded. */
double softmax_row(double *x, int64_t n, bool bf16, double *denom);

/* The support of a query at position p: the visible tokens of its selected blocks in ascending order, or
 * every visible token if ids is NULL. Writes token numbers within the sequence; returns how many. */
int64_t list_support(const msa_shape *s, const int32_t *ids, int64_t p, int64_t *tokens);

/* The most tokens that a support can hold. */
int64_t max_support(const msa_shape *s, bool full);

/* What the keys of this support have in common: centre[d], 0 in channels where that is little: centre.c. k is
 * the sequence's first, keys lie `stride` floats apart. */
void key_centre(const msa_shape *s, const int32_t *ids, int64_t p, const float *k, int64_t stride, int d,
                float *centre);
/* The same in two steps: which keys it is found by, and how many; and what `used` of them, [used,d], have in common. */
#define KEY_SAMPLES 16
int key_samples(const msa_shape *s, const int32_t *ids, int64_t p, int64_t at[KEY_SAMPLES]);
void sample_centre(const float *keys, int used, int d, float *centre);

/* Keys of the longest sequence. */
int64_t longest_kv(const msa_shape *s);

/* Request r of a step, which the call has been checked for, and where its keys are. */
typedef struct request {
    msa_seq seq;
    const int32_t *table; /* its row of the page table; NULL: contiguous, from seq.kv0 on */
    int64_t page;         /* tokens of a page */
    int number;           /* r */
} request;
request get_request(const msa_shape *s, const msa_pages *p, int r);
/* The row of K, V and index keys that holds key j. */
int64_t key_row(const request *req, int64_t j);
/* Keys of j .. end-1 that lie side by side from j on. */
int64_t keys_together(const request *req, int64_t j, int64_t end);
/* Writes rows of the newest tokens, of so many bytes, to where their keys lie: of K, V or index keys, float32 or bf16. */
void append_rows(const msa_shape *s, const msa_pages *p, size_t bytes, const void *new_rows, void *rows);
/* m[n]: the maxima of q . key in the first n blocks of a request, each complete and visible: of a step, those before the
 * local one. */
void score_request(const msa_shape *s, const msa_pages *p, const request *req, const float *q, const float *ki,
                   int64_t n, double *m);
/* Tokens that share a scale of 8-bit keys: a page, or a block of it. */
int64_t piece_tokens(const msa_shape *s, const msa_pages *p);

/* The `keep` best of m[0..n-1] by (value descending, index ascending), written ascending to ids.
 * `best` has room for `keep` doubles. NaN ranks as -inf. Needs keep <= n. */
void top_blocks(const double *m, int64_t n, int64_t keep, double *best, int32_t *ids);

/* The selection rule on one row of block scores: ids[k] for a query whose local block is `local`. */
void topk_row(const double *m, int64_t local, int64_t k, double *best, int32_t *ids);

/* Block and score recall of one row of k ids against the n best blocks; both lists ascend: recall.c. */
void recall_row(const double *mass, const int32_t *best, int64_t n, const int32_t *ids, int k,
                double *block_recall, double *score_recall);

/* What float32 arithmetic rounds, in the score and in the bound of index8.c, is at most so many |q'| (N + E). */
static inline double index8_slack(int d)
{
    return (1.01 * d + 16) * 0x1p-24;
}

/* ---- Padding (padding.c) -------------------------------------------------------------------------- */

/* Sequence r's part of the arrays, padding included. */
msa_seq padded_seq(const msa_shape *s, int r);

/* Query rows first .. end-1 are padding: those of a query that sees nothing. Outputs that are NULL are left
 * out. */
void write_padding(const msa_shape *s, int64_t first, int64_t end, int32_t *ids, float *o, float *lse);
/* Those of all sequences. */
void pad_outputs(const msa_shape *s, int32_t *ids, float *o, float *lse);

/* Rows of padding queries in x [outer,T,width] become `value`; x may be NULL. */
void pad_queries(const msa_shape *s, int64_t outer, int64_t width, float value, float *x);

/* T Hkv of the KL loss: its T counts queries, not padding. At least 1. */
double kl_rows(const msa_shape *s);

/* Runs of rows of queries that nothing interrupts: without padding all T are one. */
static inline int n_runs(const msa_shape *s)
{
    return s->len_q ? msa_n_seqs(s) : 1;
}
static inline msa_seq get_run(const msa_shape *s, int r)
{
    return s->len_q ? msa_get_seq(s, r) : (msa_seq){0, s->n_q, 0, s->n_kv};
}

/* ---- Rows ------------------------------------------------------------------------------------------ */

/* Position of query i of a sequence, and the row of ids for (group r, query row q). */
static inline int64_t position(const msa_seq *seq, int64_t i)
{
    return seq->n_kv - seq->n_q + i;
}

/* Query i of a call as a call of its own: that query and the keys it sees, the first of its sequence *seq. */
msa_shape query_shape(const msa_shape *s, int64_t i, msa_seq *seq);

/* Whether a row of ids is ascending visible blocks, at least one unless none is visible (local < 0), then -1 to the end. */
bool valid_row(const int32_t *ids, int k, int64_t local);

static inline const int32_t *ids_row(const msa_shape *s, const int32_t *ids, int r, int64_t q)
{
    return ids ? ids + ((int64_t)r * s->n_q + q) * s->topk : NULL;
}

/* ---- Workspace ------------------------------------------------------------------------------------- */

/* What a table hands out for a kernel that needs FUNCTION_workspace() bytes: enough wherever the caller's
 * memory starts, and 0 bytes for a shape that the kernel refuses. Of others no size overflows:
 * msa_check_shape() sees to it. */
#define CHECKED_WORKSPACE(function)                                                                          \
    static size_t function##_checked(const msa_shape *s)                                                     \
    {                                                                                                        \
        return msa_check_shape(s) == MSA_OK ? function##_workspace(s) + ARENA_ALIGN : 0;                     \
    }

/* Workspace sizes of the reference's stages. */
#define dense_backward_workspace backward_workspace
#define STAGE(NAME, name, ...) size_t name##_workspace(const msa_shape *s);
#include "stages.def"

/* dW [m,n] += X^T dY over the queries' rows of x [T,m] and dy [T,n]: layer.c. */
void add_weight_gradient(const msa_ops *ops, const msa_shape *s, int64_t m, const float *x, int64_t n,
                         const float *dy, float *dw);

/* What the paper left out of a layer: departures.c. */
size_t lse_backward_workspace(const msa_ops *ops, const msa_shape *s);
size_t value_head_workspace(const msa_ops *ops, const msa_shape *s); /* forward or backward */
void sink_forward(const msa_shape *s, const float *sink, const float *lse, const float *o, float *out);
void sink_backward(const msa_shape *s, const float *sink, const msa_layer_state *st, float *d_o, float *slope,
                   float *dsink);
msa_status lse_backward(const msa_ops *ops, const msa_shape *s, const msa_layer_state *st, const int32_t *ids,
                        const float *slope, float *dq, float *dk, void *work);
msa_status value_head_forward(const msa_ops *ops, const msa_shape *s, const msa_layer_config *c,
                              const msa_layer_weights *w, const float *x, msa_layer_state *st, float *y,
                              void *work);
/* `a` has dqi and dki, to which it adds. */
msa_status value_head_backward(const msa_ops *ops, const msa_shape *s, const msa_layer_config *c,
                               const msa_layer_weights *w, const float *x, const msa_layer_state *st,
                               const float *dy, const msa_arrays *a, const msa_layer_weights *dw, void *work);

/* The reference's entries of the table, for tables that borrow one. */
#define STAGE(NAME, name, ...) extern const msa_kernel ref_##name##_kernel;
#include "stages.def"

#endif
