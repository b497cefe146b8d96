/* What chapter 13b's program and figure share: a long row of random keys, made a block at a time, and what its blocks
 * look like to a query, in full and rounded. */
#ifndef SCREENING_H
#define SCREENING_H

#include <float.h>
#include <string.h>

#include "example.h"
#include "random.h"

enum { D = 128, BLOCK = 128, K = 16 }; /* M3's */

/* ---- Rows ------------------------------------------------------------------------------------------------------- */

/* n numbers of a stream, the same on every machine whoever asks first: nearly normal, mean 0 and variance 1. If
 * outliers, four channels of each row are 6 times as large. */
static inline void draw_rows(float *x, long n, uint64_t seed, uint64_t from, int outliers)
{
    for (long i = 0; i < n; i++) {
        int sum = 0;
        for (uint64_t a = 0; a < 3; a++) { /* twelve uniform numbers */
            const uint64_t bits = random_bits(seed, 3 * (from + (uint64_t)i) + a);
            sum += (int)(bits & 0xffff) + (int)(bits >> 16 & 0xffff) + (int)(bits >> 32 & 0xffff) +
                   (int)(bits >> 48);
        }
        x[i] = ((float)sum / 65536.0f - 6) * (outliers && i % 32 == 5 ? 6.0f : 1.0f);
    }
}

/* [rotate] */
/* x -> H x / sqrt(D): sums and differences of neighbours, then of neighbouring pairs, and so on. */
static inline void rotate(float *x)
{
    for (int half = 1; half < D; half *= 2)
        for (int c = 0; c < D; c += 2 * half)
            for (int n = c; n < c + half; n++) {
                const float sum = x[n] + x[n + half];
                x[n + half] = x[n] - x[n + half];
                x[n] = sum;
            }
    for (int c = 0; c < D; c++)
        x[c] /= sqrtf(D);
}
/* [rotate] */

static inline double length(const float *x, int d)
{
    double sum = 0;
    for (int c = 0; c < d; c++)
        sum += (double)x[c] * (double)x[c];
    return sqrt(sum);
}

static inline double product(const float *x, const float *y, int d)
{
    float part[8] = {0}, sum = 0;
    for (int c = 0; c < d; c += 8)
        for (int l = 0; l < 8; l++)
            part[l] += x[c + l] * y[c + l];
    for (int l = 0; l < 8; l++)
        sum += part[l];
    return (double)sum;
}

/* ---- Rounding, whatever the format ------------------------------------------------------------------------------ */

typedef enum format { INT8, TWO, E4M3, FULL } format; /* TWO codes of int8 a channel */

/* Rows as a format has them, one scale for all; the longest of them; the farthest from what it was. */
typedef struct rounded {
    float x[BLOCK * D];
    double reach, error;
} rounded;

/* [round] */
static inline void to_integers(const float *x, long n, int largest, float *y)
{
    float most = 0;
    for (long i = 0; i < n; i++)
        most = fmaxf(most, fabsf(x[i]));
    const float scale = most / (float)largest; /* one for all n numbers */
    for (long i = 0; i < n; i++)
        y[i] = scale * rintf(x[i] / scale); /* what is stored is the integer, of int8 -127 to 127 */
}
/* [round] */

static inline void to_e4m3(const float *x, long n, float *y)
{
    static float value[256];
    static uint8_t bits[BLOCK * D];
#pragma omp threadprivate(value, bits)
    float scale;
    msa_e4m3_block(x, n, bits, &scale);
    if (value[1] <= 0)
        for (int b = 0; b < 256; b++)
            value[b] = msa_e4m3((uint8_t)b);
    for (long i = 0; i < n; i++)
        y[i] = scale * value[bits[i]];
}

static inline void round_rows(const float *x, int rows, format f, rounded *to)
{
    const long n = (long)rows * D;
    if (f == FULL)
        memcpy(to->x, x, (size_t)n * sizeof *x);
    else if (f == INT8 || f == TWO)
        to_integers(x, n, f == INT8 ? 127 : 127 * 128, to->x);
    else
        to_e4m3(x, n, to->x);
    to->reach = to->error = 0;
    for (int j = 0; j < rows; j++) {
        float off[D];
        for (int c = 0; c < D; c++)
            off[c] = x[j * D + c] - to->x[j * D + c];
        to->reach = fmax(to->reach, length(to->x + j * D, D));
        to->error = fmax(to->error, length(off, D));
    }
}

/* ---- What a query knows of a block ------------------------------------------------------------------------------ */

typedef struct bounds {
    double lower, upper;
} bounds;

/* [bound] */
/* A query q, its rounded form and how far that is from q; a rounded block. */
static inline bounds bounds_of(const float *q, const rounded *query, const rounded *keys)
{
    double x = -INFINITY;
    for (int j = 0; j < BLOCK; j++)
        x = fmax(x, product(query->x, keys->x + j * D, D)); /* of integers: exact */
    const double eps = query->error * keys->reach + length(q, D) * keys->error;
    return (bounds){x - eps, x + eps};
}
/* [bound] */

/* [ball] */
/* One vector a block of n keys, the middle of them, and the distance of the farthest: the radius. */
static inline double ball_of(const float *keys, int n, int d, float *middle)
{
    double radius = 0;
    for (int c = 0; c < d; c++) {
        middle[c] = 0;
        for (int j = 0; j < n; j++)
            middle[c] += keys[j * d + c] / (float)n;
    }
    for (int j = 0; j < n; j++) {
        float off[D];
        for (int c = 0; c < d; c++)
            off[c] = keys[j * d + c] - middle[c];
        radius = fmax(radius, length(off, d));
    }
    return radius;
}

static inline bounds bounds_of_ball(const float *q, int d, const float *middle, double radius)
{
    const double x = product(q, middle, d); /* some key is at least as good as their mean */
    return (bounds){x, x + length(q, d) * radius};
}
/* [ball] */

/* ---- Choosing --------------------------------------------------------------------------------------------------- */

/* The `keep` best of n scores, ties to the lower id: taken[b] is 1 for each. Returns the least of their scores. */
static inline double choose(const double *score, int n, int keep, char *taken)
{
    double least = INFINITY;
    for (int b = 0; b < n; b++)
        taken[b] = 0;
    for (int a = 0; a < keep; a++) {
        int best = -1;
        for (int b = 0; b < n; b++)
            if (!taken[b] && (best < 0 || score[b] > score[best]))
                best = b;
        taken[best] = 1;
        least = score[best];
    }
    return least;
}

/* [candidates] */
/* A block is out if `keep` others, k - 1, are better for certain. The rest are candidates: open[b] is 1. */
static inline int candidates(const bounds *b, int n, int keep, char *open)
{
    double *lower = room(n, sizeof *lower);
    int count = 0;
    for (int i = 0; i < n; i++)
        lower[i] = b[i].lower;
    const double tau = choose(lower, n, keep, open);
    for (int i = 0; i < n; i++)
        count += open[i] = b[i].upper >= tau;
    free(lower);
    return count;
}
/* [candidates] */

#endif
