/* A vector of floats as gcc and clang know it on every machine, and the few operations C does not spell. */
#ifndef MSA_LANES_H
#define MSA_LANES_H

#include <math.h>

#include "vmath.h"

#define LANES 16
typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t int_lanes __attribute__((vector_size(LANES * sizeof(int32_t))));
typedef uint32_t word_lanes __attribute__((vector_size(LANES * sizeof(uint32_t))));

static inline lanes load(const float *x)
{
    lanes y;
    memcpy(&y, x, sizeof y);
    return y;
}

static inline void store(float *x, lanes y)
{
    memcpy(x, &y, sizeof y);
}

static inline lanes all(float x)
{
    return x - (lanes){0};
}

/* Lane by lane the larger one; x where y is NaN. */
static inline lanes larger(lanes x, lanes y)
{
    const int_lanes take = y > x;
    return (lanes)(((int_lanes)y & take) | ((int_lanes)x & ~take));
}

static inline int_lanes larger_integer(int_lanes x, int_lanes y)
{
    const int_lanes take = y > x;
    return (y & take) | (x & ~take);
}

/* Lane by lane the smaller one; x where y is NaN. */
static inline lanes smaller(lanes x, lanes y)
{
    const int_lanes take = y < x;
    return (lanes)(((int_lanes)y & take) | ((int_lanes)x & ~take));
}

/* Of 16 vectors the largest and the least of each lane that has no NaN. Four of each go on side by side: one alone
 * would wait for itself. */
static inline void extremes_of(const float *x, lanes *top, lanes *low)
{
    lanes most[4], least[4];
    for (int n = 0; n < 4; n++)
        most[n] = least[n] = load(x + n * LANES);
    for (int n = 4; n < 16; n++) {
        most[n % 4] = larger(most[n % 4], load(x + n * LANES));
        least[n % 4] = smaller(least[n % 4], load(x + n * LANES));
    }
    *top = larger(larger(most[0], most[1]), larger(most[2], most[3]));
    *low = smaller(smaller(least[0], least[1]), smaller(least[2], least[3]));
}

static inline lanes exp2_lanes(lanes x)
{
    for (int l = 0; l < LANES; l++)
        x[l] = exp2_nonpositive(x[l]);
    return x;
}

/* Lane l ^ n of x in lane l. */
#ifdef __clang__
#define TURNED(x, n)                                                                                         \
    __builtin_shufflevector(x, x, 0 ^ n, 1 ^ n, 2 ^ n, 3 ^ n, 4 ^ n, 5 ^ n, 6 ^ n, 7 ^ n, 8 ^ n, 9 ^ n,      \
                            10 ^ n, 11 ^ n, 12 ^ n, 13 ^ n, 14 ^ n, 15 ^ n)
#else
#define TURNED(x, n)                                                                                         \
    __builtin_shuffle(x, (int_lanes){0 ^ n, 1 ^ n, 2 ^ n, 3 ^ n, 4 ^ n, 5 ^ n, 6 ^ n, 7 ^ n, 8 ^ n, 9 ^ n,   \
                                     10 ^ n, 11 ^ n, 12 ^ n, 13 ^ n, 14 ^ n, 15 ^ n})
#endif

/* Lanes of x, numbered from 0, and of y, from 16. */
#ifdef __clang__
#define PICKED(x, y, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
#else
#define PICKED(x, y, ...) __builtin_shuffle(x, y, (int_lanes){__VA_ARGS__})
#endif

/* One step of a transposition: of each pair of rows n apart, lanes n apart change places. */
#define OWN(l, n) ((l) & (n) ? 16 + ((l) ^ (n)) : (l))
#define OTHER(l, n) ((l) & (n) ? 16 + (l) : ((l) | (n)))
#define EACH_LANE(f, n)                                                                                      \
    f(0, n), f(1, n), f(2, n), f(3, n), f(4, n), f(5, n), f(6, n), f(7, n), f(8, n), f(9, n), f(10, n),      \
        f(11, n), f(12, n), f(13, n), f(14, n), f(15, n)
#define EXCHANGE(x, n)                                                                                       \
    for (int i = 0; i < 16; i++)                                                                             \
        if (!(i & (n))) {                                                                                    \
            const int_lanes upper = (x)[i], lower = (x)[i | (n)];                                            \
            (x)[i] = PICKED(upper, lower, EACH_LANE(OWN, n));                                                \
            (x)[i | (n)] = PICKED(upper, lower, EACH_LANE(OTHER, n));                                        \
        }

/* Rows become columns. */
static inline void transpose(int_lanes x[16])
{
    EXCHANGE(x, 1)
    EXCHANGE(x, 2)
    EXCHANGE(x, 4)
    EXCHANGE(x, 8)
}

static inline float sum_of(lanes x)
{
    x += TURNED(x, 8);
    x += TURNED(x, 4);
    x += TURNED(x, 2);
    x += TURNED(x, 1);
    return x[0];
}

static inline float largest_of(lanes x)
{
    x = larger(x, TURNED(x, 8));
    x = larger(x, TURNED(x, 4));
    x = larger(x, TURNED(x, 2));
    x = larger(x, TURNED(x, 1));
    return x[0];
}

static inline float smallest_of(lanes x)
{
    x = smaller(x, TURNED(x, 8));
    x = smaller(x, TURNED(x, 4));
    x = smaller(x, TURNED(x, 2));
    x = smaller(x, TURNED(x, 1));
    return x[0];
}

/* The largest of `most` and x[n]; what is NaN does not count. */
static inline float row_max(const float *x, int64_t n, float most)
{
    lanes m = all(most);
    int64_t a = 0;
    for (; a + LANES <= n; a += LANES)
        m = larger(m, load(x + a));
    most = largest_of(m);
    for (; a < n; a++)
        most = x[a] > most ? x[a] : most;
    return most;
}

/* The same for a softmax, NaN if x holds -inf: float32 could not hold that logit, and what weighs nothing
 * would not show. A NaN or +inf shows by itself, and NaN for `most` stays. */
static inline float row_top(const float *x, int64_t n, float most)
{
    lanes m = all(most), low = all(INFINITY);
    float least = INFINITY;
    int64_t a = 0;
    for (; a + LANES <= n; a += LANES) {
        m = larger(m, load(x + a));
        low = smaller(low, load(x + a));
    }
    most = largest_of(m);
    least = smallest_of(low);
    for (; a < n; a++) {
        most = x[a] > most ? x[a] : most;
        least = x[a] < least ? x[a] : least;
    }
    return least > -INFINITY ? most : NAN;
}

#endif
