/* Heads as lanes: the softmax of a few heads over keys and values that stream by. */
#include "heads.h"
#include "online.h"

/* An E4M3's bits are those of a float32 that is 2^-120 times as large. */
static void unpack_e4m3(const uint8_t *from, float scale, int d, float *row)
{
    for (int c = 0; c < d; c++) {
        const uint32_t sign = (from[c] & 0x80u) << 24, rest = from[c] & 0x7fu;
        row[c] = rest == 0x7f ? NAN : from_bits((int32_t)(sign | rest << 20)) * 0x1p120f * scale;
    }
}

static void unpack_row(cached x, int64_t at, int d, float *row)
{
    if (x.scale) {
        unpack_e4m3((const uint8_t *)x.data + at, x.scale[at / d / x.piece], d, row);
        return;
    }
    if (!x.bf16) {
        memcpy(row, (const float *)x.data + at, (size_t)d * sizeof *row);
        return;
    }
    const uint16_t *from = (const uint16_t *)x.data + at;
    for (int c = 0; c < d; c++)
        row[c] = from_bits((int32_t)((uint32_t)from[c] << 16));
}

void round_halves(uint16_t *to, const float *x, int64_t n)
{
#pragma omp parallel for simd num_threads(fast_threads()) schedule(static)
    for (int64_t i = 0; i < n; i++) {
        const uint32_t bits = (uint32_t)to_bits(x[i]), magnitude = bits & 0x7fffffffu;
        const uint32_t up = magnitude > 0x7f800000u ? 0x00400000u : 0x7fffu + ((bits >> 16) & 1u);
        to[i] = (uint16_t)((magnitude > 0x7f800000u ? bits | up : bits + up) >> 16);
    }
}

const float *rows_of(cached x, int n_heads, int head, int d, int64_t first, int64_t n, float *buffer)
{
    const int64_t stride = (int64_t)n_heads * d, begin = first * stride + (int64_t)head * d;
    if (!x.bf16 && !x.scale && n_heads == 1)
        return (const float *)x.data + begin;
    for (int64_t j = 0; j < n; j++)
        unpack_row(x, begin + j * stride, d, buffer + j * d);
    return buffer;
}

void cached_centre(const msa_shape *s, const int32_t *ids, int64_t p, cached k, int n_heads, int head,
                   int64_t first, int d, float *buffer, float *centre)
{
    int64_t at[KEY_SAMPLES];
    const int used = key_samples(s, ids, p, at);
    for (int i = 0; i < used; i++)
        memmove(buffer + i * d, rows_of(k, n_heads, head, d, first + at[i], 1, buffer + i * d),
                (size_t)d * sizeof *buffer);
    sample_centre(buffer, used, d, centre);
}

int slabs_of(const msa_shape *s)
{
    return (s->n_heads / s->n_kv_heads + LANES - 1) / LANES;
}

heads *heads_take(const msa_shape *s, int64_t n, arena *a)
{
    heads *h = arena_take(a, n, sizeof *h);
    lanes *q = arena_take(a, n * s->d_head, sizeof *q), *o = arena_take(a, n * s->d_head, sizeof *o);
    lanes *max = arena_take(a, n, sizeof *max);
    double *sum = arena_take(a, n * LANES, sizeof *sum);
    for (int64_t i = 0; h && i < n; i++)
        h[i] = (heads){q + i * s->d_head, o + i * s->d_head, max + i, sum + i * LANES};
    return h;
}

void heads_begin(heads *h, const msa_shape *s, const float *q, int count)
{
    const int d = s->d_head;
    const float scale = (float)(LOG2_E / sqrt(d));
    for (int c = 0; c < d; c++)
        for (int l = 0; l < LANES; l++) {
            h->q[c][l] = l < count ? scale * q[l * d + c] : 0;
            h->o[c][l] = 0;
        }
    for (int l = 0; l < LANES; l++) {
        (*h->max)[l] = -INFINITY;
        h->sum[l] = 0;
    }
}

#define AT_ONCE 8 /* keys, or channels, whose sums stay in registers */

static void logits_of(const heads *h, int d, const float *k, int64_t n, lanes *p, ahead next)
{
    for (int64_t j = 0; j < n; j += AT_ONCE) {
        const float *row[AT_ONCE];
        lanes sum[AT_ONCE];
        fetch(next, j, j + AT_ONCE);
        for (int u = 0; u < AT_ONCE; u++) {
            row[u] = k + min_i64(j + u, n - 1) * d; /* past the end: the last again, not used */
            sum[u] = (lanes){0};
        }
        for (int c = 0; c < d; c++)
            for (int u = 0; u < AT_ONCE; u++)
                sum[u] += row[u][c] * h->q[c];
        for (int u = 0; u < AT_ONCE; u++)
            p[j + u] = sum[u];
    }
}

/* Logits to weights; returns how much earlier weights shrink. */
static lanes online_softmax_lanes(heads *h, lanes *p, int64_t n)
{
    lanes most = *h->max, least = all(INFINITY), sum = {0}, shrink;
    for (int64_t j = 0; j < n; j++) {
        most = larger(most, p[j]);
        least = smaller(least, p[j]);
    }
    for (int l = 0; l < LANES; l++)
        most[l] = least[l] > -INFINITY ? most[l] : NAN; /* as in row_top() */
    for (int64_t j = 0; j < n; j++) {
        p[j] = exp2_lanes(p[j] - most);
        sum += p[j];
    }
    for (int l = 0; l < LANES; l++) {
        shrink[l] = most[l] > (*h->max)[l] ? exp2_nonpositive((*h->max)[l] - most[l]) : 1;
        h->sum[l] = h->sum[l] * (double)shrink[l] + (double)sum[l];
    }
    *h->max = most;
    return shrink;
}

static void add_values(heads *h, int d, const float *v, int64_t n, const lanes *p, lanes shrink, ahead next)
{
    const int64_t part = (next.n * AT_ONCE + d - 1) / d;
    int c = 0;
    for (; c + AT_ONCE <= d; c += AT_ONCE) {
        lanes sum[AT_ONCE];
        fetch(next, c / AT_ONCE * part, (c / AT_ONCE + 1) * part);
        for (int u = 0; u < AT_ONCE; u++)
            sum[u] = h->o[c + u] * shrink;
        for (int64_t j = 0; j < n; j++)
            for (int u = 0; u < AT_ONCE; u++)
                sum[u] += v[j * d + c + u] * p[j];
        for (int u = 0; u < AT_ONCE; u++)
            h->o[c + u] = sum[u];
    }
    for (; c < d; c++) {
        h->o[c] *= shrink;
        for (int64_t j = 0; j < n; j++)
            h->o[c] += v[j * d + c] * p[j];
    }
}

void heads_attend(heads *h, int d, const float *k, const float *v, int64_t n, ahead next, ahead after)
{
    lanes p[HEADS_KEYS + AT_ONCE];
    logits_of(h, d, k, n, p, next);
    const lanes shrink = online_softmax_lanes(h, p, n);
    add_values(h, d, v, n, p, shrink, after);
}

void heads_merge(heads *into, const heads *h, int d)
{
    lanes a, b;
    for (int l = 0; l < LANES; l++) {
        const float x = (*into->max)[l], y = (*h->max)[l], most = x > y ? x : y;
        a[l] = x < most ? exp2_nonpositive(x - most) : 1;
        b[l] = y < most ? exp2_nonpositive(y - most) : 1;
        into->sum[l] = into->sum[l] * (double)a[l] + h->sum[l] * (double)b[l];
        (*into->max)[l] = most;
    }
    for (int c = 0; c < d; c++)
        into->o[c] = into->o[c] * a + h->o[c] * b;
}

void heads_end(const heads *h, const msa_shape *s, int count, float *o, float *lse)
{
    const int d = s->d_head;
    for (int l = 0; l < count; l++) {
        const float inverse = (float)(1 / h->sum[l]);
        for (int c = 0; c < d; c++)
            o[l * d + c] = h->o[c][l] * inverse;
        if (lse)
            lse[l] = online_lse((*h->max)[l], h->sum[l]);
    }
}
