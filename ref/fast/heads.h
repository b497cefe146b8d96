/* Attention of one query at a time, for decoding: the heads of a group are the lanes of a vector, and a key
 * or value is read once for all of them. There is no product to fill, so memory sets the pace. */
#ifndef MSA_HEADS_H
#define MSA_HEADS_H

#include "fast.h"
#include "vector.h"

/* A tensor of keys or values as it is stored: float32, bf16, or E4M3 with a scale for every `piece` rows. */
typedef struct cached {
    const void *data;
    bool bf16;
    const float *scale; /* NULL: not E4M3, which has one head */
    int64_t piece;
} cached;

static inline cached floats(const float *x)
{
    return (cached){.data = x};
}
static inline cached halves(const uint16_t *x)
{
    return (cached){.data = x, .bf16 = true};
}

/* Rows first .. first+n-1 of x [.,n_heads,d], head `head`, as floats [n,d]: in place where they lie so, else
 * in `buffer`. */
const float *rows_of(cached x, int n_heads, int head, int d, int64_t first, int64_t n, float *buffer);

/* What the keys of a query at position p have in common, centre [d]: key_centre() of those of head `head` from row
 * `first` on. `buffer` [KEY_SAMPLES,d]. */
void cached_centre(const msa_shape *s, const int32_t *ids, int64_t p, cached k, int n_heads, int head,
                   int64_t first, int d, float *buffer, float *centre);

/* Rows that will be read next, to be asked for while something else is computed: memory is too slow to wait
 * for, and rows too short for the machine to guess. */
typedef struct ahead {
    const char *row;
    size_t stride, bytes; /* of a row */
    int64_t n;
} ahead;
static inline ahead rows_ahead(cached x, int n_heads, int head, int d, int64_t first, int64_t n)
{
    const size_t size = x.scale ? 1 : x.bf16 ? sizeof(uint16_t) : sizeof(float), row = (size_t)d * size;
    return (ahead){(const char *)x.data + ((size_t)first * (size_t)n_heads + (size_t)head) * row,
                   (size_t)n_heads * row, row, max_i64(0, n)};
}

/* Asks for the rows from .. to-1. */
static inline void fetch(ahead x, int64_t from, int64_t to)
{
    for (int64_t j = from; j < min_i64(to, x.n); j++)
        for (size_t at = 0; at < x.bytes; at += 64)
            __builtin_prefetch(x.row + (size_t)j * x.stride + at, 0, 2);
}

/* Up to LANES heads of one query, channel by channel, and their softmax so far. */
typedef struct heads {
    lanes *q, *o; /* [d] */
    lanes *max;
    double *sum; /* [LANES] */
} heads;

#define HEADS_KEYS 64 /* taken at once */

int slabs_of(const msa_shape *s); /* vectors that hold the heads of a group */
heads *heads_take(const msa_shape *s, int64_t n, arena *a);
void heads_begin(heads *h, const msa_shape *s, const float *q, int count);
/* Meets n <= HEADS_KEYS keys, k and v [n,d]. */
void heads_attend(heads *h, int d, const float *k, const float *v, int64_t n, ahead next, ahead after);
/* `into` goes on where `h` ends. */
void heads_merge(heads *into, const heads *h, int d);
void heads_end(const heads *h, const msa_shape *s, int count, float *o, float *lse);

/* Dense attention of a request with few queries; work as dense_few_workspace() says. */
#define FEW 16
void dense_few(const msa_shape *s, const request *at, const float *q, cached k, cached v, float *o,
               float *lse, void *work);
size_t dense_few_workspace(const msa_shape *s);

#endif
