/**
 * @file weights.c
 * @brief Weights from the file as floats, and products with them: a tile of rows at a time, so that memory holds
 *        one tile and not the matrix.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../fast/fast.h"
#include "checkpoint.h"

#define TILE ((int64_t)1 << 21) /* floats: 341 rows of MiniMax-M3's projections */
#define PIECE_ROWS 256          /* of x that one thread multiplies at a time */

/* Files open at a weight, and memory for a tile of it. */
typedef struct reader {
    const checkpoint_weight *w;
    FILE *f, *scales;
    unsigned char *raw, *raw_scales;
    float *tile;
} reader;

static int64_t tile_rows_of(const checkpoint_weight *w)
{
    return min_i64(w->rows, max_i64(1, TILE / w->cols));
}

static bool is_mx(const checkpoint_weight *w)
{
    return w->element == IO_N_ELEMENTS;
}

static size_t width(const checkpoint_weight *w)
{
    return is_mx(w) ? 1 : io_element_bytes(w->element);
}

static void close_reader(reader *r)
{
    if (r->f)
        fclose(r->f);
    if (r->scales)
        fclose(r->scales);
    free(r->raw);
    free(r->raw_scales);
    free(r->tile);
}

static FILE *open_at(const char *path, size_t at, io_error err)
{
    size_t bytes;
    FILE *f = io_open(path, &bytes, err);
    if (f && at <= bytes && fseeko(f, (off_t)at, SEEK_SET) == 0)
        return f;
    if (f) {
        io_fail(err, path, "shrank while it was read: expected more than %zu bytes, found %zu", at, bytes);
        fclose(f);
    }
    return NULL;
}

static bool open_reader(const checkpoint_weight *w, reader *r, io_error err)
{
    const size_t n = (size_t)tile_rows_of(w) * (size_t)w->cols;
    *r = (reader){.w = w};
    if (!(r->f = open_at(w->path, w->at, err)) ||
        (is_mx(w) && !(r->scales = open_at(w->scales_path, w->scales_at, err))))
        return false;
    r->raw = malloc(n * width(w));
    r->raw_scales = malloc(n / CHECKPOINT_MX + 1);
    r->tile = malloc(n * sizeof *r->tile);
    return (r->raw && r->raw_scales && r->tile) ||
           io_fail(err, w->path, "tensor '%s': no memory for %lld of its rows", w->name,
                   (long long)tile_rows_of(w));
}

/* E4M3 times 2^(scale - 127); a scale of 255 is no number. */
static void from_mx(const unsigned char *code, const unsigned char *scale, int64_t n, float *to)
{
    for (int64_t i = 0; i < n; i++) {
        const int s = scale[i / CHECKPOINT_MX];
        to[i] = s == 255 ? NAN : (float)ldexp((double)msa_e4m3(code[i]), s - 127);
    }
}

/* The next `rows` rows, from row `first` on, to the tile. */
static bool read_tile(reader *r, int64_t first, int64_t rows, io_error err)
{
    const checkpoint_weight *w = r->w;
    const size_t n = (size_t)rows * (size_t)w->cols, row_bytes = (size_t)w->cols * width(w);
    if (!io_read(r->f, w->path, r->raw, n * width(w), err) ||
        (is_mx(w) && !io_read(r->scales, w->scales_path, r->raw_scales, n / CHECKPOINT_MX, err)))
        return false;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        float *to = r->tile + i * w->cols;
        const unsigned char *from = r->raw + (size_t)i * row_bytes;
        if (is_mx(w))
            from_mx(from, r->raw_scales + i * (w->cols / CHECKPOINT_MX), w->cols, to);
        else
            io_to_floats(w->element, from, (size_t)w->cols, to);
    }
    for (size_t i = 0; i < n; i++)
        if (!isfinite(r->tile[i])) {
            char where[IO_PLACE];
            io_place(2, (const int64_t[]){w->rows, w->cols}, (size_t)first * (size_t)w->cols + i, where);
            return io_fail(err, w->path, "tensor '%s': %s at %s, expected finite numbers", w->name,
                           isnan(r->tile[i]) ? "nan" : "an infinity", where);
        }
    return true;
}

bool checkpoint_read_gain(const checkpoint_weight *w, float *gain, io_error err)
{
    reader r;
    const bool ok = open_reader(w, &r, err) && read_tile(&r, 0, 1, err);
    if (ok)
        memcpy(gain, r.tile, (size_t)w->cols * sizeof *gain);
    close_reader(&r);
    return ok;
}

/* Columns first .. first + rows - 1 of y, from the tile of those rows of W. */
static void multiply(const reader *r, int64_t first, int64_t rows, int64_t n, const float *x, float *y)
{
    const checkpoint_weight *w = r->w;
    const int threads = products_begin();
    (void)threads; /* without OpenMP */
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < n; i += PIECE_ROWS)
        small_gemm(false, true, min_i64(PIECE_ROWS, n - i), rows, w->cols, x + i * w->cols, w->cols, r->tile,
                   w->cols, 0, y + i * w->rows + first, w->rows);
    products_end();
}

bool checkpoint_project(const checkpoint_weight *w, int64_t n, const float *x, float *y, io_error err)
{
    reader r;
    bool ok = open_reader(w, &r, err);
    /* [by_tiles] */
    for (int64_t first = 0, rows; ok && first < w->rows; first += rows) {
        rows = min_i64(tile_rows_of(w), w->rows - first);
        ok = read_tile(&r, first, rows, err);
        if (ok)
            multiply(&r, first, rows, n, x, y);
    }
    /* [by_tiles] */
    close_reader(&r);
    return ok;
}
