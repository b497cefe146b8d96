/* Dense attention on tiles of bf16.
 *
 * Everything is turned: S^T = K Q^T has a key in each row and 16 (query, head) rows in its lanes, so that a row's
 * maximum and sum are taken lane by lane, and two rows of weights, rounded and interleaved, are what a right factor
 * looks like: O^T = V^T P^T needs no transposition of P. K lies as a left factor already; V is turned once a call.
 *
 * A task is 512 rows of a group. It walks the keys in chunks of 512, which stay in the L2 cache while its strips of 64
 * rows pass. An item is a strip and 128 keys. While the tile unit works at the logits of the next item and the output
 * of the last one, the vector unit does the exponentials of this one: all three are woven into one stream of
 * instructions, and the processor takes from it what is ready.
 *
 * A maximum is raised only where a logit exceeds it by 8, for then weights would be above 2^8: O is seldom scaled. */
#include <float.h>

#include "amx_kernels.h"
#include "online.h"
#include "panels.h"

#define TASK 512
#define STRIP 64
#define COLUMNS (STRIP / TILE_ROWS) /* tiles that a strip is wide */
#define CHUNK 512
#define KEYS 128
#define SLACK 8 /* of the maximum, in powers of 2 */

/* The keys of a group. */
typedef struct panels {
    tile_rows *k; /* [S/16][steps] */
    tile_rows *v; /* [S/32][steps][2] */
} panels;

typedef struct scratch {
    tile_rows *q;     /* [TASK/STRIP][COLUMNS][steps] */
    float *o;         /* [TASK/STRIP][32 steps][STRIP] */
    float *logits[2]; /* [KEYS][STRIP] */
    tile_rows *p[2];  /* [KEYS/32][COLUMNS] */
    float *max;       /* [TASK] */
    double *sum;      /* [TASK] */
    int64_t *last;    /* [TASK], the last key that a row sees */
} scratch;

static size_t place(scratch *m, const msa_shape *s, void *work)
{
    const int steps = steps_of(s->d_head);
    arena a = arena_over(work);
    m->q = arena_take(&a, TASK / TILE_ROWS * steps, sizeof *m->q);
    m->o = arena_take(&a, TASK * TILE_HALVES * steps, sizeof *m->o);
    for (int n = 0; n < 2; n++) {
        m->logits[n] = arena_take(&a, KEYS * STRIP, sizeof *m->logits[n]);
        m->p[n] = arena_take(&a, KEYS / TILE_HALVES * COLUMNS, sizeof *m->p[n]);
    }
    m->max = arena_take(&a, TASK, sizeof *m->max);
    m->sum = arena_take(&a, TASK, sizeof *m->sum);
    m->last = arena_take(&a, TASK, sizeof *m->last);
    return arena_bytes(&a);
}

static size_t scratch_bytes(const msa_shape *s)
{
    scratch m;
    return place(&m, s, NULL);
}

static size_t place_panels(panels *x, const msa_shape *s, arena *a)
{
    const int64_t n = (longest_kv(s) + KEYS - 1) / KEYS * KEYS / TILE_ROWS * steps_of(s->d_head);
    x->k = arena_take(a, n, sizeof *x->k);
    x->v = arena_take(a, n, sizeof *x->v);
    return arena_bytes(a);
}

size_t BODY_WORKSPACE(dense)(const msa_shape *s)
{
    panels x;
    arena a = arena_over(NULL);
    return place_panels(&x, s, &a) + (size_t)fast_max_threads() * scratch_bytes(s);
}

/* ---- A task --------------------------------------------------------------------------- */

/* A strip and KEYS keys from key j on. */
typedef struct item {
    int strip;
    int64_t j;
} item;

typedef struct task {
    const msa_shape *s;
    const panels *x;
    scratch *m;
    int steps;
    float scale; /* of logits, times log2 e */
} task;

/* The logits of keys 16 at .. 16 at + 15 of an item. */
static void multiply_keys(tiles *t, const task *k, item e, int at, float *logits)
{
    const tile_rows *keys = k->x->k + (e.j / TILE_ROWS + at) * k->steps;
    const tile_rows *q = k->m->q + e.strip * COLUMNS * k->steps;
    tile_zero(t, 0);
    tile_zero(t, 1);
    tile_zero(t, 2);
    tile_zero(t, 3);
    for (int step = 0; step < k->steps; step++) {
        tile_load(t, 4, keys + step, TILE_BYTES);
        tile_load(t, 5, q + step, TILE_BYTES);
        tile_load(t, 6, q + k->steps + step, TILE_BYTES);
        tile_bf16(t, 0, 4, 5);
        tile_bf16(t, 1, 4, 6);
        tile_load(t, 5, q + 2 * k->steps + step, TILE_BYTES);
        tile_load(t, 6, q + 3 * k->steps + step, TILE_BYTES);
        tile_bf16(t, 2, 4, 5);
        tile_bf16(t, 3, 4, 6);
    }
    float *to = logits + at * TILE_ROWS * STRIP;
    tile_store(t, 0, to, STRIP * sizeof *to);
    tile_store(t, 1, to + 16, STRIP * sizeof *to);
    tile_store(t, 2, to + 32, STRIP * sizeof *to);
    tile_store(t, 3, to + 48, STRIP * sizeof *to);
}

/* Adds an item's weights times values to channels 16 at .. 16 at + 15 of O. */
static void multiply_values(tiles *t, const task *k, item e, int at, const tile_rows *p)
{
    const tile_rows *values = k->x->v + e.j / TILE_HALVES * 2 * k->steps + at;
    float *o = k->m->o + ((int64_t)e.strip * TILE_HALVES * k->steps + at * TILE_ROWS) * STRIP;
    tile_load(t, 0, o, STRIP * sizeof *o);
    tile_load(t, 1, o + 16, STRIP * sizeof *o);
    tile_load(t, 2, o + 32, STRIP * sizeof *o);
    tile_load(t, 3, o + 48, STRIP * sizeof *o);
    for (int n = 0; n < KEYS / TILE_HALVES; n++, p += COLUMNS) {
        tile_load(t, 4, values + n * 2 * k->steps, TILE_BYTES);
        tile_load(t, 5, p, TILE_BYTES);
        tile_load(t, 6, p + 1, TILE_BYTES);
        tile_bf16(t, 0, 4, 5);
        tile_bf16(t, 1, 4, 6);
        tile_load(t, 5, p + 2, TILE_BYTES);
        tile_load(t, 6, p + 3, TILE_BYTES);
        tile_bf16(t, 2, 4, 5);
        tile_bf16(t, 3, 4, 6);
    }
    tile_store(t, 0, o, STRIP * sizeof *o);
    tile_store(t, 1, o + 16, STRIP * sizeof *o);
    tile_store(t, 2, o + 32, STRIP * sizeof *o);
    tile_store(t, 3, o + 48, STRIP * sizeof *o);
}

/* What a row does not see is as low as can be: it weighs nothing, and is no -inf, which would be a logit that float32
 * could not hold. */
static void hide_future(const task *k, item e, float *logits)
{
    const int64_t *last = k->m->last + e.strip * STRIP;
    for (int row = 0; row < STRIP; row++)
        for (int64_t j = max_i64(0, last[row] + 1 - e.j); j < KEYS; j++)
            logits[j * STRIP + row] = -FLT_MAX;
}

/* Raises the maxima of an item's rows where they have to be; false: none. `factor` [STRIP]: by how much what they have
 * summed shrinks. */
static bool raise_maxima(const task *k, item e, const float *logits, float *factor)
{
    bool any = false;
    for (int n = 0; n < STRIP; n += LANES) {
        float *at = k->m->max + e.strip * STRIP + n;
        lanes top = load(logits + n), low = top;
        for (int j = 1; j < KEYS; j++) {
            const lanes x = load(logits + j * STRIP + n);
            top = larger(top, x);
            low = smaller(low, x);
        }
        for (int l = 0; l < LANES; l++) {
            const float most = low[l] > -INFINITY ? top[l] * k->scale : NAN;
            const bool raise = !(most <= at[l] + SLACK);
            factor[n + l] = raise ? exp2_nonpositive(at[l] - most) : 1;
            at[l] = raise ? most : at[l];
            any = any || raise;
        }
    }
    return any;
}

static void shrink(const task *k, item e, const float *factor)
{
    float *o = k->m->o + (int64_t)e.strip * TILE_HALVES * k->steps * STRIP;
    for (int n = 0; n < STRIP; n++)
        k->m->sum[e.strip * STRIP + n] *= (double)factor[n];
    for (int c = 0; c < TILE_HALVES * k->steps; c++, o += STRIP)
        for (int n = 0; n < STRIP; n += LANES)
            store(o + n, load(o + n) * load(factor + n));
}

/* Two rows of floats to pairs of bf16, rounded to nearest even. */
static inline int_lanes pairs_of(lanes x, lanes y)
{
    int_lanes a = (int_lanes)x, b = (int_lanes)y;
    a += 0x7fff + ((a >> 16) & 1);
    b += 0x7fff + ((b >> 16) & 1);
    return ((a >> 16) & 0xffff) | (b & (int32_t)0xffff0000);
}

/* Weights of keys 16 at .. 16 at + 15 of an item, and their sums [STRIP]. */
static void weigh(const task *k, item e, int at, const float *logits, tile_rows *p, float *sums)
{
    const float *max = k->m->max + e.strip * STRIP;
    p += at / 2 * COLUMNS;
    for (int n = 0; n < COLUMNS; n++) {
        const lanes m = load(max + n * LANES);
        lanes sum = load(sums + n * LANES);
        for (int j = 0; j < TILE_ROWS; j += 2) {
            const float *x = logits + (at * TILE_ROWS + j) * STRIP + n * LANES;
            const lanes first = exp2_lanes(load(x) * k->scale - m);
            const lanes second = exp2_lanes(load(x + STRIP) * k->scale - m);
            const int_lanes pairs = pairs_of(first, second);
            sum += first + second;
            memcpy(p[n].word[at % 2 * 8 + j / 2], &pairs, sizeof pairs);
        }
        store(sums + n * LANES, sum);
    }
}

/* One turn of the pipeline: the exponentials of item `now` among the products of its neighbours, where there are
 * some. Buffer `which` is now's. */
static void turn(tiles *t, const task *k, const item *before, const item *now, const item *after, int which)
{
    const int channels = 2 * k->steps, parts = KEYS / TILE_ROWS;
    float *logits = k->m->logits[which], factor[STRIP], sums[STRIP] = {0};
    int done = before ? 0 : channels; /* channels of `before` */
    if (now->j + KEYS - 1 > k->m->last[now->strip * STRIP])
        hide_future(k, *now, logits);
    if (raise_maxima(k, *now, logits, factor)) {
        for (; before && before->strip == now->strip && done < channels; done++)
            multiply_values(t, k, *before, done, k->m->p[!which]);
        shrink(k, *now, factor);
    }
    for (int part = 0; part < parts; part++) {
        if (after)
            multiply_keys(t, k, *after, part, k->m->logits[!which]);
        weigh(k, *now, part, logits, k->m->p[which], sums);
        for (; done < (part + 1) * channels / parts; done++)
            multiply_values(t, k, *before, done, k->m->p[!which]);
    }
    for (int n = 0; n < STRIP; n++)
        k->m->sum[now->strip * STRIP + n] += (double)sums[n];
}

/* All items of a chunk, j0 .. j0 + CHUNK - 1. */
static void walk_chunk(tiles *t, const task *k, int strips, int64_t j0)
{
    item items[TASK / STRIP * (CHUNK / KEYS)];
    int n = 0;
    for (int strip = 0; strip < strips; strip++)
        for (int64_t j = j0; j < j0 + CHUNK && j <= k->m->last[strip * STRIP + STRIP - 1]; j += KEYS)
            items[n++] = (item){strip, j};
    for (int part = 0; n > 0 && part < KEYS / TILE_ROWS; part++)
        multiply_keys(t, k, items[0], part, k->m->logits[0]);
    for (int a = 0; a < n; a++)
        turn(t, k, a > 0 ? &items[a - 1] : NULL, &items[a], a + 1 < n ? &items[a + 1] : NULL, a % 2);
    for (int c = 0; n > 0 && c < 2 * k->steps; c++)
        multiply_values(t, k, items[n - 1], c, k->m->p[(n - 1) % 2]);
}

/* Row a of a group is head a % group of query a / group; this is where it lies in q and o. */
static int64_t row_of(const msa_shape *s, const msa_seq *seq, int r, int64_t a)
{
    const int group = s->n_heads / s->n_kv_heads;
    return (seq->q0 + a / group) * s->n_heads + r * group + a % group;
}

/* Rows first .. first + n - 1; what the last strip has left over copies the last. */
static void begin_task(const task *k, const msa_seq *seq, int r, int64_t first, int64_t n, int strips,
                       const uint16_t *q)
{
    const int d = k->s->d_head, group = k->s->n_heads / k->s->n_kv_heads;
    memset(k->m->q, 0, (size_t)(strips * COLUMNS * k->steps) * sizeof *k->m->q);
    memset(k->m->o, 0, (size_t)(strips * STRIP * TILE_HALVES * k->steps) * sizeof *k->m->o);
    for (int a = 0; a < strips * STRIP; a++) {
        const int64_t row = first + min_i64(a, n - 1);
        put_right(k->m->q + a / TILE_ROWS * k->steps, a % TILE_ROWS, q + row_of(k->s, seq, r, row) * d, d);
        k->m->max[a] = -INFINITY;
        k->m->sum[a] = 0;
        k->m->last[a] = position(seq, row / group);
    }
}

static void end_task(const task *k, const msa_seq *seq, int r, int64_t first, int64_t n, float *o, float *lse)
{
    const int d = k->s->d_head;
    for (int64_t a = 0; a < n; a++) {
        const int64_t row = row_of(k->s, seq, r, first + a);
        const float *from = k->m->o + a / STRIP * STRIP * TILE_HALVES * k->steps + a % STRIP;
        const float inverse = (float)(1 / k->m->sum[a]);
        for (int c = 0; c < d; c++)
            o[row * d + c] = from[c * STRIP] * inverse;
        if (lse)
            lse[row] = online_lse(k->m->max[a], k->m->sum[a]);
    }
}

/* ---- A call ---------------------------------------------------------------------------------------------------- */

/* Keys 32 n .. 32 n + 31 of a group. */
static void pack_keys(const msa_shape *s, const msa_seq *seq, int r, int64_t n, const uint16_t *k,
                      const uint16_t *v, panels *x)
{
    const int steps = steps_of(s->d_head), d = s->d_head;
    tile_rows *keys = x->k + 2 * n * steps, *values = x->v + 2 * n * steps;
    memset(keys, 0, (size_t)(2 * steps) * sizeof *keys);
    memset(values, 0, (size_t)(2 * steps) * sizeof *values);
    for (int64_t j = n * TILE_HALVES; j < min_i64((n + 1) * TILE_HALVES, seq->n_kv); j++) {
        const int at = (int)(j % TILE_HALVES);
        const int64_t row = ((seq->kv0 + j) * s->n_kv_heads + r) * d;
        put_left(keys + at / TILE_ROWS * steps, at % TILE_ROWS, k + row, d);
        put_turned(values, at, v + row, d);
    }
}

static void attend(const msa_shape *s, const msa_seq *seq, int r, const msa_arrays *a, panels *x, void *work)
{
    const int64_t rows = seq->n_q * (s->n_heads / s->n_kv_heads), tasks = (rows + TASK - 1) / TASK;
    const int64_t whole = (seq->n_kv + KEYS - 1) / KEYS * KEYS / TILE_HALVES;
#pragma omp parallel num_threads(fast_threads())
    {
        scratch m;
        tiles t;
        task k = {.s = s,
                  .x = x,
                  .m = &m,
                  .steps = steps_of(s->d_head),
                  .scale = (float)(LOG2_E / sqrt(s->d_head))};
        place(&m, s, own_part(work, scratch_bytes(s)));
        tiles_begin(&t);
#pragma omp for schedule(static)
        for (int64_t n = 0; n < whole; n++)
            pack_keys(s, seq, r, n, a->k, a->v, x);
        /* The last tasks are the longest: they go first. */
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < tasks; n++) {
            const int64_t first = (tasks - 1 - n) * TASK, count = min_i64(TASK, rows - first);
            const int strips = (int)((count + STRIP - 1) / STRIP);
            begin_task(&k, seq, r, first, count, strips, a->q);
            for (int64_t j0 = 0; j0 <= m.last[count - 1]; j0 += CHUNK)
                walk_chunk(&t, &k, strips, j0);
            end_task(&k, seq, r, first, count, writable(a->o), writable(a->lse));
        }
        tiles_end(&t);
    }
}

msa_status BODY(dense)(const msa_shape *s, const msa_arrays *a, void *work)
{
    panels x;
    arena all = arena_over(work);
    place_panels(&x, s, &all);
    void *rest = all.base + all.used;
    for (int b = 0; b < msa_n_seqs(s); b++) {
        const msa_seq seq = msa_get_seq(s, b);
        for (int r = 0; r < s->n_kv_heads; r++)
            attend(s, &seq, r, a, &x, rest);
    }
    return MSA_OK;
}
