/* A step of generation screens a cache by its 8-bit copy: the codes stream by instead of the keys, half the bytes, and
 * each row learns below which upper bound a block cannot be chosen. The blocks that are left are scored in full
 * by decode_amx.c, for all rows at once; a row that did not ask takes no notice.
 *
 * A query has two codes a channel where they cost no time, which halves what is left. Then a tile's first eight columns
 * are the first codes of eight rows, the others their second codes: up to eight rows that takes no more products. With
 * more it takes up to twice as many. Tile instructions have the time: for 64 rows and 16 keys of 128 channels they need
 * 256 clocks, memory about 500. Loops over vectors in their place have not, and lose more than settling saves.
 *
 * In pages a block may lie in pieces, each with numbers of its own: the largest of their bounds are the block's. */
#ifndef MSA_STEP_SCREEN_AMX_H
#define MSA_STEP_SCREEN_AMX_H

#include "screen_amx.h"
#include "step_amx.h"

#define HALF_OF_TILE (TILE_ROWS / 2)
/* Channels of which a sum of products with both codes fits in 32 bits, 127^2 2^17 < 2^31; rows that two codes are for. */
#define WIDEST_OF_TWO (1 << 10)
#ifdef TILES
#define MOST_OF_TWO INT64_MAX
#else
#define MOST_OF_TWO HALF_OF_TILE
#endif

typedef struct screener {
    const msa_shape *s;
    const msa_index8 *copy;
    request at;
    int64_t piece,
        first;        /* tokens that share a number; contiguous: the number of the request's first block */
    int64_t rows;     /* n groups */
    int n_codes, per_tile;
    tile_rows *right;     /* [tiles][bytes' steps]: the rows' codes */
    screened of;          /* [tiles][16], of which per_tile are rows */
    float *lower, *upper; /* [rows][B] */
    float *tau;           /* [rows] */
    int8_t *codes;        /* [2,di] */
    double *room;         /* [di] */
} screener;

static inline int64_t code_tiles(int64_t rows, int per_tile)
{
    return (rows + per_tile - 1) / per_tile;
}

static inline void screener_take(screener *y, const msa_shape *s, arena *a)
{
    const int64_t rows = most_queries(s) * s->n_kv_heads, all = code_tiles(rows, HALF_OF_TILE);
    y->right = arena_take(a, all * steps8_of(s->d_index), sizeof *y->right);
    y->of = screened_take(all * TILE_ROWS, a);
    y->lower = arena_take(a, rows * msa_n_blocks(s), sizeof *y->lower);
    y->upper = arena_take(a, rows * msa_n_blocks(s), sizeof *y->upper);
    y->tau = arena_take(a, rows, sizeof *y->tau);
    y->codes = arena_take(a, 2 * (int64_t)s->d_index, sizeof *y->codes);
    y->room = arena_take(a, s->d_index, sizeof *y->room);
}

/* The number of the piece that begins with this key. */
static inline int64_t number_of(const screener *y, int64_t j)
{
    return y->at.table ? key_row(&y->at, j) / y->piece : y->first + j / y->piece;
}

/* A request; qi [rows,di] as floats. */
static inline void screener_begin(screener *y, const cache *x, const msa_arrays *a, const float *qi)
{
    const int d = x->s->d_index, steps8 = steps8_of(d);
    const int64_t rows = x->at.seq.n_q * x->s->n_kv_heads;
    const int n_codes = rows <= MOST_OF_TWO && d <= WIDEST_OF_TWO ? 2 : 1, per_tile = TILE_ROWS / n_codes;
    y->s = x->s;
    y->copy = a->index8;
    y->at = x->at;
    y->piece = x->at.table ? piece_tokens(x->s, &a->pages) : x->s->block;
    y->first = x->at.number * msa_n_blocks(x->s);
    y->rows = rows;
    y->n_codes = n_codes;
    y->per_tile = per_tile;
    memset(y->right, 0, (size_t)(code_tiles(rows, per_tile) * steps8) * sizeof *y->right);
    for (int64_t lane = 0; lane < code_tiles(rows, per_tile) * TILE_ROWS; lane++)
        y->of.step[lane] = y->of.norm[lane] = y->of.rest[lane] = 0;
    for (int64_t row = 0; row < rows; row++) {
        const int64_t of = row / per_tile, lane = row % per_tile;
        screened_row(y->of, of * TILE_ROWS + lane, qi + row * d, d, n_codes, y->codes, y->room);
        for (int n = 0; n < n_codes; n++)
            put_codes(y->right + of * steps8, lane + n * HALF_OF_TILE, y->codes + n * d, d);
    }
}

/* n <= 16 keys' codes, as left factors: where they lie if that is possible. */
static inline left_rows codes_of(const screener *y, int64_t row, int64_t n, tile_rows *room)
{
    const int d = y->s->d_index;
    const int8_t *codes = y->copy->codes + row * d;
    if (n == TILE_ROWS && d % TILE_BYTES == 0)
        return (left_rows){codes, d, TILE_BYTES};
    memset(room, 0, (size_t)steps8_of(d) * sizeof *room);
    for (int64_t j = 0; j < n; j++)
        put_key_codes(room, j, codes + j * d, d);
    return (left_rows){room, TILE_BYTES, sizeof *room};
}

/* A key's products with the codes of a tile's rows: of two 128 times the first one's and once the second one's. */
static inline int_lanes product_of(const tile_rows *products, int64_t key, int n_codes)
{
    int_lanes x;
    memcpy(&x, products->word[key], sizeof x);
    return n_codes == 2 ? (x << 7) + TURNED(x, HALF_OF_TILE) : x;
}

/* X of a piece for `wide` tiles of rows. `far`: codes so many keys on are asked for. */
static inline void piece_products(tiles *t, const screener *y, int64_t j, const tile_rows *const q[COLUMNS],
                                  int wide, int64_t far, tile_rows *room, tile_rows *products,
                                  int_lanes best[COLUMNS])
{
    const int d = y->s->d_index;
    const int64_t row = key_row(&y->at, j);
    for (int b = 0; b < wide; b++)
        best[b] = (int_lanes){0} + INT32_MIN;
    for (int64_t k = 0, n; k < y->piece; k += n) {
        n = min_i64(TILE_ROWS, y->piece - k);
        if (j + k + far < y->at.seq.n_kv)
            for (int64_t at = 0; at < n * d; at += 64)
                __builtin_prefetch(y->copy->codes + key_row(&y->at, j + k + far) * d + at, 0, 2);
        multiply_columns(t, steps8_of(d), codes_of(y, row + k, n, room), q, wide, true, products);
        for (int b = 0; b < wide; b++)
            for (int64_t i = 0; i < n; i++)
                best[b] = larger_integer(best[b], product_of(&products[b], i, y->n_codes));
    }
}

/* The bounds of a complete block for the rows of tiles first .. first + wide - 1. */
static inline void screen_rows(tiles *t, const screener *y, int64_t block, int64_t first, int wide,
                               int64_t far, tile_rows *room, tile_rows *products)
{
    const int64_t blocks = msa_n_blocks(y->s);
    const tile_rows *q[COLUMNS] = {NULL};
    lanes lower[COLUMNS], upper[COLUMNS];
    for (int b = 0; b < wide; b++) {
        q[b] = y->right + (first + b) * steps8_of(y->s->d_index);
        lower[b] = upper[b] = all(-INFINITY);
    }
    for (int64_t j = block * y->s->block; j < (block + 1) * y->s->block; j += y->piece) {
        const int64_t number = number_of(y, j);
        const float reach = y->copy->reach[number],
                    bound = bound_of(reach, y->copy->error[number], y->s->d_index);
        int_lanes best[COLUMNS];
        piece_products(t, y, j, q, wide, far, room, products, best);
        for (int b = 0; b < wide; b++) {
            lanes low, high;
            bounds_of(y->of, (first + b) * TILE_ROWS, best[b], y->copy->scale[number], reach, bound, &low,
                      &high);
            lower[b] = larger(lower[b], low);
            upper[b] = (lanes)((int_lanes)larger(upper[b], high) | (high != high)); /* NaN stays */
        }
    }
    for (int64_t row = first * y->per_tile; row < min_i64(y->rows, (first + wide) * y->per_tile); row++) {
        y->lower[row * blocks + block] = lower[row / y->per_tile - first][row % y->per_tile];
        y->upper[row * blocks + block] = upper[row / y->per_tile - first][row % y->per_tile];
    }
}

static inline void screen_block(tiles *t, const screener *y, int64_t block, int64_t far, tile_rows *room,
                                tile_rows *products)
{
    const int64_t all = code_tiles(y->rows, y->per_tile);
    for (int64_t first = 0; first < all; first += COLUMNS)
        screen_rows(t, y, block, first, (int)min_i64(COLUMNS, all - first), far, room, products);
}

/* The smallest magnitude in the blocks before block `end`. */
static inline float least_before(const screener *y, int64_t end)
{
    float least = INFINITY;
    for (int64_t j = 0; j < end * y->s->block; j += y->piece)
        least = fminf(least, y->copy->least[number_of(y, j)]);
    return least;
}

/* What a row's upper bounds may not be below: the (k-1)-th largest of its lower ones. NaN: all of its blocks are
 * scored. */
static inline void find_tau(const screener *y, int64_t row, const fitted *fit, float least, best_list *best)
{
    const int64_t local = position(&y->at.seq, row / y->s->n_kv_heads) / y->s->block, keep = y->s->topk - 1;
    const float *lower = y->lower + row * msa_n_blocks(y->s);
    y->tau[row] = NAN;
    if (keep == 0 || local <= keep || y->s->d_index > WIDEST || may_vanish(fit, least))
        return;
    best->n = 0;
    for (int64_t b = 0; b < local; b++)
        best_insert(best, keep, lower[b], (int32_t)b);
    y->tau[row] = best->score[keep - 1];
}

static inline bool asks_for(const screener *y, int64_t row, int64_t block)
{
    return y->s->topk > 1 && block < position(&y->at.seq, row / y->s->n_kv_heads) / y->s->block &&
           !(y->upper[row * msa_n_blocks(y->s) + block] < y->tau[row]);
}

/* What became of the request's rows: a block that one asks for is scored in full. */
static inline msa_screening screened_rows(const screener *y)
{
    msa_screening sum = {0};
    for (int64_t row = 0; row < y->rows; row++) {
        const int64_t local = position(&y->at.seq, row / y->s->n_kv_heads) / y->s->block;
        int64_t asked = 0;
        if (y->s->topk == 1 || local < y->s->topk)
            continue; /* it takes what there is */
        for (int64_t b = 0; b < local; b++)
            asked += asks_for(y, row, b);
        sum.rows++;
        sum.blocks += local;
        sum.settled += asked;
        sum.fell_back += asked == local;
    }
    return sum;
}

#endif
