/* The tile instructions of a CPU (Intel AMX), one function each, and what vectors do in their place; all that is special
 * to such processors is in this file, as all of a GPU's is in cuda/kit/ptx.cuh.
 *
 * A tile is a register of 16 rows of 64 bytes; there are eight. One instruction multiplies two of them and adds to a
 * third: 16 x 16 sums over 32 bf16 or 64 bytes, in 16 clocks. The left factor lies as in memory, 16 rows of the sum's
 * axis. The right one has two rows of it (four, of bytes) in each of its own, neighbours side by side:
 *
 *     right.row[j] = x[2j][0] x[2j+1][0]  x[2j][1] x[2j+1][1]  ..  x[2j][15] x[2j+1][15]
 *
 * so that a column of 4 bytes is multiplied by 4 bytes of a row of the left one.
 *
 * Files named STAGE_amx.c are compiled twice: with TILES for that processor, where a tile is a register, and for
 * ARCH, where products are loops over vectors. Where these multiply pairs of bf16 (AVX512-BF16: ADDS_PAIRS) a tile is a
 * note of where its rows lie, and sums are added in another order. Elsewhere it is memory, and the results have a tile's
 * bits, but for subnormal numbers, which both processors' instructions take for 0. What is compiled for ARCH counts what
 * it does: amx_counts.h. BODY(name) is a function's name in one of the two; amx.c asks the processor which it is to be.
 *
 * What is loaded is not written before the sums of its products are stored: a body may read it as late as that. Whoever
 * cannot promise that defines AT_ONCE. */
#ifndef MSA_AMX_H
#define MSA_AMX_H

#include "amx_counts.h"
#include "vector.h"

#define TILE_ROWS 16
#define TILE_BYTES 64
#define TILE_HALVES 32 /* bf16 in a row */

/* What a tile instruction multiplies, in memory: 1024 bytes, row after row. */
typedef struct tile_rows {
    _Alignas(64) uint32_t word[TILE_ROWS][16];
} tile_rows;

/* Rounded to bf16, to nearest even, which is the upper half of each word; the lower one is 0. */
static inline int_lanes halved(lanes x)
{
    int_lanes a = (int_lanes)x;
    a += 0x7fff + ((a >> 16) & 1);
    return a & (int32_t)0xffff0000;
}

/* Two rows of those, word by word. */
static inline int_lanes joined(int_lanes x, int_lanes y)
{
    return ((x >> 16) & 0xffff) | y;
}

/* Two rows of floats to pairs of bf16, rounded like those. */
static inline int_lanes pairs_of(lanes x, lanes y)
{
#if defined __AVX512BF16__ && !defined TILES
    static const uint16_t beside[2 * LANES] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                               8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    int_lanes z, order; /* all of x, then all of y */
    memcpy(&order, beside, sizeof order);
    __asm__("vcvtne2ps2bf16 %2, %1, %0" : "=v"(z) : "v"(y), "v"(x));
    __asm__("vpermw %1, %2, %0" : "=v"(z) : "v"(z), "v"(order));
    return z;
#else
    return joined(halved(x), halved(y));
#endif
}

#ifdef TILES

#define FAST_INT8 true /* twice the rate of bf16 */
#define ADDS_PAIRS false
#define BODY(name) name##_tiles
#define BODY_WORKSPACE(name) name##_tiles_workspace

typedef struct tiles {
    char none;
} tiles;

/* Before the first tile instruction of a thread: all eight have 16 rows of 64 bytes. */
static inline void tiles_begin(tiles *t)
{
    (void)t;
    _Alignas(64) uint8_t config[64] = {1}; /* the only palette there is */
    for (int n = 0; n < 8; n++) {
        config[16 + 2 * n] = TILE_BYTES;
        config[48 + n] = TILE_ROWS;
    }
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
}
/* After the last: the system need not save them any more. */
static inline void tiles_end(tiles *t)
{
    (void)t;
    __asm__ volatile("tilerelease");
}

/* The number of a tile is part of the instruction: `n`, `c`, `a` and `b` are constants. That memory is read and
 * written has to be said, or the compiler keeps what is to be loaded in a register. */
#define TILE_INSTRUCTION(t, text, ...)                                                                       \
    do {                                                                                                     \
        (void)(t);                                                                                           \
        __asm__ volatile(text : : __VA_ARGS__ : "memory");                                                   \
    } while (0)
#define TILE_PRODUCT(t, name, c, a, b)                                                                       \
    do {                                                                                                     \
        (void)(t);                                                                                           \
        __asm__ volatile(name " %tmm" #b ", %tmm" #a ", %tmm" #c);                                           \
    } while (0)

#define tile_zero(t, n)                                                                                      \
    do {                                                                                                     \
        (void)(t);                                                                                           \
        __asm__ volatile("tilezero %tmm" #n);                                                                \
    } while (0)
#define tile_load(t, n, from, stride)                                                                        \
    TILE_INSTRUCTION(t, "tileloadd (%0,%1,1), %%tmm" #n, "r"((const void *)(from)), "r"((int64_t)(stride)))
#define tile_store(t, n, to, stride)                                                                         \
    TILE_INSTRUCTION(t, "tilestored %%tmm" #n ", (%0,%1,1)", "r"((void *)(to)), "r"((int64_t)(stride)))
/* c += a b, of bf16 in float32 */
#define tile_bf16(t, c, a, b) TILE_PRODUCT(t, "tdpbf16ps", c, a, b)
/* c += a b, of signed bytes in int32 */
#define tile_int8(t, c, a, b) TILE_PRODUCT(t, "tdpbssd", c, a, b)
/* So many more of what amx_counts.h has: nothing here. */
#define count_tiles(t, what, number) (void)(t)

#else

#define BODY(name) name##_plain
#define BODY_WORKSPACE(name) name##_plain_workspace

#define count_tiles(t, what, number) ((t)->n.what += (number))

/* sum + the products of four unsigned bytes of x and four signed ones of y, lane by lane. */
#ifdef __AVX512VNNI__
#define FAST_INT8 true
static inline int_lanes add_products(int_lanes sum, int_lanes x, int_lanes y)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y));
    return sum;
}
#elif defined __AVXVNNI__
#define FAST_INT8 true
typedef int32_t half_of_lanes __attribute__((vector_size(LANES / 2 * sizeof(int32_t))));
static inline int_lanes add_products(int_lanes sum, int_lanes x, int_lanes y)
{
    half_of_lanes s[2], a[2], b[2];
    memcpy(s, &sum, sizeof s);
    memcpy(a, &x, sizeof a);
    memcpy(b, &y, sizeof b);
    for (int n = 0; n < 2; n++)
        __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(s[n]) : "x"(a[n]), "x"(b[n]));
    memcpy(&sum, s, sizeof sum);
    return sum;
}
#else
#define FAST_INT8 false
static inline int_lanes add_products(int_lanes sum, int_lanes x, int_lanes y)
{
    for (int n = 0; n < 32; n += 8) // wraps like the instruction
        sum = (int_lanes)((word_lanes)sum + (word_lanes)((x >> n & 0xff) * (y << (24 - n) >> 24)));
    return sum;
}
#endif

#if defined __AVX512BF16__ && !defined AT_ONCE

/* Sums in registers. A product of tiles waits until its sum is stored. Then all that wait for it are made, while its 16
 * rows stay in 16 registers, and their factors are read where they lie: nothing is copied, and a sum goes to memory
 * once. */
#define ADDS_PAIRS true
#define WAITING 32 /* products of a sum; more are made so many at a time */
#define SUMS 4     /* tiles 0 to 3 in all kernels: what they begin with may come from far */

/* A tile: where its rows lie, `apart` bytes from each other, and the products that are to be added to them. */
typedef struct waiting {
    const char *rows;
    int64_t apart;
    int n;
    bool bytes;                      /* all of them are of bytes */
    int64_t left_apart, right_apart; /* the rows of their factors */
    const char *left[WAITING], *right[WAITING];
    tile_rows sum; /* of those that could not wait */
} waiting;

typedef struct tiles {
    waiting tile[8];
    tile_counts n;
} tiles;

static inline void tile_note(waiting *x, const void *from, int64_t stride)
{
    x->rows = from;
    x->apart = stride;
    x->n = 0;
}
static inline void tile_zero(tiles *t, int n)
{
    static const tile_rows zeros;
    tile_note(&t->tile[n], &zeros, TILE_BYTES);
}
static inline void tile_load(tiles *t, int n, const void *from, int64_t stride)
{
    tile_note(&t->tile[n], from, stride);
    for (int row = 0; n < SUMS && row < TILE_ROWS; row++)
        __builtin_prefetch((const char *)from + row * stride);
    count_tiles(t, loads, 1);
}

/* sum + the products of the two bf16 of *x and the two of a lane of y, lane by lane: twice the rate of float32. */
static inline lanes add_pairs(lanes sum, const char *x, int_lanes y)
{
    typedef uint32_t __attribute__((may_alias)) word;
    __asm__("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(y), "m"(*(const word *)(const void *)x));
    return sum;
}

/* Rows by name: a compiler may keep an array on the stack. */
#define EACH_ROW(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11) f(12) f(13) f(14) f(15)

/* The rows of the factors are so many bytes from each other. */
static inline void store_pairs(const waiting *x, int64_t left_apart, int64_t right_apart, char *to,
                               int64_t stride)
{
#define BEGIN(row) lanes sum##row = load((const float *)(const void *)(x->rows + row * x->apart));
    EACH_ROW(BEGIN)
#undef BEGIN
    for (int i = 0; i < x->n; i++)
        for (int k = 0; k < 16; k++) {
            const char *left = x->left[i] + k * (int)sizeof(uint32_t);
            int_lanes right;
            memcpy(&right, x->right[i] + k * right_apart, sizeof right);
#define ADD(row) sum##row = add_pairs(sum##row, left + row * left_apart, right);
            EACH_ROW(ADD)
#undef ADD
        }
#define END(row) store((float *)(void *)(to + row * stride), sum##row);
    EACH_ROW(END)
#undef END
}

/* The left factor is taken for unsigned bytes, 128 more than they are; 128 times a column's sum is what that adds. */
static inline void store_bytes(const waiting *x, int64_t left_apart, int64_t right_apart, char *to,
                               int64_t stride)
{
    const int_lanes high = (int_lanes){0} + (int32_t)0x80808080;
    int_lanes excess = {0};
#define BEGIN(row)                                                                                           \
    int_lanes sum##row;                                                                                      \
    memcpy(&sum##row, x->rows + row * x->apart, sizeof sum##row);
    EACH_ROW(BEGIN)
#undef BEGIN
    for (int i = 0; i < x->n; i++) {
        tile_rows left;
#define FLIP(row)                                                                                            \
    do {                                                                                                     \
        int_lanes y;                                                                                         \
        memcpy(&y, x->left[i] + row * left_apart, sizeof y);                                                 \
        y ^= high;                                                                                           \
        memcpy(left.word[row], &y, sizeof y);                                                                \
    } while (0);
        EACH_ROW(FLIP)
#undef FLIP
        for (int k = 0; k < 16; k++) {
            int_lanes right;
            memcpy(&right, x->right[i] + k * right_apart, sizeof right);
            excess = add_products(excess, high, right);
#define ADD(row) sum##row = add_products(sum##row, (int_lanes){0} + (int32_t)left.word[row][k], right);
            EACH_ROW(ADD)
#undef ADD
        }
    }
#define END(row)                                                                                             \
    sum##row = (int_lanes)((word_lanes)sum##row - (word_lanes)excess);                                       \
    memcpy(to + row * stride, &sum##row, sizeof sum##row);
    EACH_ROW(END)
#undef END
}

static inline void store_sum(const waiting *x, void *to, int64_t stride)
{
    const int64_t left = x->n > 0 ? x->left_apart : TILE_BYTES,
                  right = x->n > 0 ? x->right_apart : TILE_BYTES;
    if (x->n > 0 && x->bytes)
        store_bytes(x, left, right, to, stride);
    else if (left == TILE_BYTES && right == TILE_BYTES) /* as nearly always: what the compiler may know */
        store_pairs(x, TILE_BYTES, TILE_BYTES, to, stride);
    else
        store_pairs(x, left, right, to, stride);
}
static inline void tile_store(tiles *t, int n, void *to, int64_t stride)
{
    store_sum(&t->tile[n], to, stride);
    count_tiles(t, stores, 1);
}

static inline void tile_product(tiles *t, int c, int a, int b, bool bytes)
{
    waiting *x = &t->tile[c];
    const waiting *left = &t->tile[a], *right = &t->tile[b];
    if (x->n == WAITING || (x->n > 0 && (x->left_apart != left->apart || x->right_apart != right->apart))) {
        store_sum(x, &x->sum, TILE_BYTES);
        tile_note(x, &x->sum, TILE_BYTES);
    }
    x->bytes = bytes;
    x->left_apart = left->apart;
    x->right_apart = right->apart;
    x->left[x->n] = left->rows;
    x->right[x->n++] = right->rows;
    count_tiles(t, products, 1);
}
static inline void tile_bf16(tiles *t, int c, int a, int b)
{
    tile_product(t, c, a, b, false);
}
static inline void tile_int8(tiles *t, int c, int a, int b)
{
    tile_product(t, c, a, b, true);
}

#else

/* Step by step, as the processor would. */
#define ADDS_PAIRS false
#define ROWS_AT_ONCE 4 /* with two sums each, what 16 registers of 512 bits hold besides b */

typedef struct tiles {
    tile_rows tile[8];
    tile_counts n;
} tiles;

static inline void tile_zero(tiles *t, int n)
{
    memset(&t->tile[n], 0, sizeof t->tile[n]);
}
static inline void tile_load(tiles *t, int n, const void *from, int64_t stride)
{
    for (int row = 0; row < TILE_ROWS; row++)
        memcpy(t->tile[n].word[row], (const char *)from + row * stride, TILE_BYTES);
    count_tiles(t, loads, 1);
}
static inline void tile_store(tiles *t, int n, void *to, int64_t stride)
{
    for (int row = 0; row < TILE_ROWS; row++)
        memcpy((char *)to + row * stride, t->tile[n].word[row], TILE_BYTES);
    count_tiles(t, stores, 1);
}

/* Of 16 pairs of bf16 the first numbers, and the second. */
static inline lanes first_halves(const uint32_t *pairs)
{
    int_lanes x;
    memcpy(&x, pairs, sizeof x);
    return (lanes)(x << 16);
}
static inline lanes second_halves(const uint32_t *pairs)
{
    int_lanes x;
    memcpy(&x, pairs, sizeof x);
    return (lanes)(x & (int32_t)0xffff0000);
}

static inline void tile_bf16(tiles *t, int c, int a, int b)
{
    float left[2][TILE_ROWS][16];
    for (int row = 0; row < TILE_ROWS; row++) {
        store(left[0][row], first_halves(t->tile[a].word[row]));
        store(left[1][row], second_halves(t->tile[a].word[row]));
    }
    for (int row = 0; row < TILE_ROWS; row += ROWS_AT_ONCE) {
        lanes even[ROWS_AT_ONCE] = {0}, odd[ROWS_AT_ONCE] = {0};
        for (int k = 0; k < 16; k++) {
            const lanes first = first_halves(t->tile[b].word[k]), second = second_halves(t->tile[b].word[k]);
            for (int n = 0; n < ROWS_AT_ONCE; n++) {
                even[n] += left[0][row + n][k] * first;
                odd[n] += left[1][row + n][k] * second;
            }
        }
        for (int n = 0; n < ROWS_AT_ONCE; n++) {
            float *sum = (float *)t->tile[c].word[row + n];
            store(sum, load(sum) + (even[n] + odd[n]));
        }
    }
    count_tiles(t, products, 1);
}

/* a is taken for unsigned bytes, 128 more than they are; 128 times a column's sum is what that adds. */
static inline void tile_int8(tiles *t, int c, int a, int b)
{
    const int_lanes high = (int_lanes){0} + (int32_t)0x80808080;
    int_lanes left[TILE_ROWS], right[16], excess = {0};
    memcpy(left, &t->tile[a], sizeof left);
    memcpy(right, &t->tile[b], sizeof right);
    for (int n = 0; n < 16; n++) {
        left[n] ^= high;
        excess = add_products(excess, high, right[n]);
    }
    for (int row = 0; row < TILE_ROWS; row += ROWS_AT_ONCE) {
        int_lanes even[ROWS_AT_ONCE], odd[ROWS_AT_ONCE];
        memcpy(even, t->tile[c].word[row], sizeof even);
        for (int n = 0; n < ROWS_AT_ONCE; n++)
            odd[n] = (int_lanes) - (word_lanes)excess;
        for (int k = 0; k < 16; k += 2)
            for (int n = 0; n < ROWS_AT_ONCE; n++) {
                even[n] = add_products(even[n], (int_lanes){0} + left[row + n][k], right[k]);
                odd[n] = add_products(odd[n], (int_lanes){0} + left[row + n][k + 1], right[k + 1]);
            }
        for (int n = 0; n < ROWS_AT_ONCE; n++)
            even[n] = (int_lanes)((word_lanes)even[n] + (word_lanes)odd[n]);
        memcpy(t->tile[c].word[row], even, sizeof even);
    }
    count_tiles(t, products, 1);
}

#endif

static inline void tiles_begin(tiles *t)
{
    memset(&t->n, 0, sizeof t->n);
}
static inline void tiles_end(tiles *t)
{
    amx_add_counts(&t->n);
}

#endif
#endif
