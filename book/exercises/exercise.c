/**
 * @file exercise.c
 * @brief Verdicts and pictures of the exercises: see exercise.h.
 */
#include "exercise.h"

#include <stdalign.h>
#include <stdarg.h>
#include <stdio.h>

#include "../../ref/io/io.h"

static uint64_t seed = 1;
static const char *picture_path;
static int failures;
static const char *place = "";
static char failure[4 * VERDICT_TEXT]; // the engine's story of a deadlock has several lines

/* ---- Memory ---------------------------------------------------------------------------------------- */

// Nothing is released before the end; the chain says so to leak checkers.
typedef struct kept {
    struct kept *next;
    alignas(64) unsigned char memory[];
} kept;
static kept *all;

static void no_memory(void)
{
    fprintf(stderr, "exercise: out of memory\n");
    exit(2);
}

void *exercise_alloc(int64_t bytes)
{
    kept *k = aligned_alloc(64, (sizeof *k + (size_t)bytes + 63) / 64 * 64);
    if (!k)
        no_memory();
    k->next = all;
    all = k;
    return k->memory;
}

float *exercise_floats(int64_t n)
{
    float *x = exercise_alloc(n * (int64_t)sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = NAN;
    return x;
}

inputs exercise_inputs(const msa_shape *s, inputs_pattern pattern)
{
    inputs *in = exercise_alloc(sizeof *in);
    if (!inputs_new(in, s, pattern, seed))
        no_memory();
    return *in;
}

/* ---- What the code touched ------------------------------------------------------------------------- */

touched touched_new(int64_t rows, int64_t columns, const char *down, const char *across)
{
    touched t = {rows, columns, down, across, 0, 0, NULL};
    t.count = exercise_alloc(rows * columns * (int64_t)sizeof *t.count);
    memset(t.count, 0, (size_t)(rows * columns) * sizeof *t.count);
    return t;
}

void touched_mark(touched *t, int64_t at_row, int64_t column)
{
    if (at_row >= 0 && at_row < t->rows && column >= 0 && column < t->columns)
        t->count[at_row * t->columns + column] += 1;
}

const float *row(const tensor *t, int64_t token, int head)
{
    const int64_t at = token * t->heads + head;
    if (t->seen) {
        t->seen->reads++;
        touched_mark(t->seen, t->seen->row, at);
    }
    return t->data + at * t->width;
}

double dot_product(const float *x, const float *y, int width)
{
    double sum = 0;
    for (int c = 0; c < width; c++)
        sum += (double)x[c] * (double)y[c];
    return sum;
}

/* ---- Verdicts -------------------------------------------------------------------------------------- */

void exercise_begin(int argc, char **argv)
{
    if (argc > 1)
        seed = strtoull(argv[1], NULL, 10);
    if (argc > 2)
        picture_path = argv[2];
}

uint64_t exercise_seed(void)
{
    return seed;
}

void exercise_true(bool ok, const char *fmt, ...)
{
    failures += !ok;
    if (ok || failure[0])
        return;
    va_list args;
    const int n = snprintf(failure, sizeof failure, "%s", place);
    va_start(args, fmt);
    vsnprintf(failure + n, sizeof failure - (size_t)n, fmt, args);
    va_end(args);
}

int exercise_failures(void)
{
    return failures;
}

void exercise_place(const char *text)
{
    place = text;
}

void exercise_tensor(const char *what, verdict_dims n, const float *expected, const float *found,
                     verdict_budget budget)
{
    const int64_t count = n.d0 * n.d1 * n.d2;
    double *oracle = exercise_alloc(count * (int64_t)sizeof *oracle);
    for (int64_t i = 0; i < count; i++)
        oracle[i] = (double)expected[i];
    const verdict v = verdict_compare(n, oracle, found, budget);
    char text[VERDICT_TEXT];
    verdict_text(what, &v, text);
    exercise_true(v.pass, "%s", text);
}

void exercise_ids(const msa_shape *s, const int32_t *expected, const int32_t *found)
{
    const int64_t n = s->n_kv_heads * s->n_q * s->topk;
    for (int64_t i = 0; i < n; i++)
        exercise_true(found[i] == expected[i], "ids[%lld,%lld,%lld]: expected %d, found %d",
                      (long long)(i / s->topk / s->n_q), (long long)(i / s->topk % s->n_q),
                      (long long)(i % s->topk), expected[i], found[i]);
}

void exercise_bar(const char *what, uint64_t found, uint64_t bar)
{
    printf("  %-28s %12llu   bar %12llu   %s\n", what, (unsigned long long)found, (unsigned long long)bar,
           found <= bar ? "met" : "OVER");
    exercise_true(found <= bar, "%s: expected at most %llu, found %llu", what, (unsigned long long)bar,
                  (unsigned long long)found);
}

/* ---- The picture ----------------------------------------------------------------------------------- */

#define EDGE 24 // pixels around the map
#define SIZE 960

static int larger(int a, int b)
{
    return a > b ? a : b;
}

static void draw(const touched *t)
{
    const int64_t longer = t->rows > t->columns ? t->rows : t->columns;
    const int cell = longer < SIZE ? (int)(SIZE / longer) : 1;
    const int width = cell * (int)t->columns, height = cell * (int)t->rows;
    const io_rgb paper = {255, 255, 255}, ink = {30, 30, 30};
    char title[160], written[IO_ERR];
    io_error err;
    float most = 1;
    for (int64_t i = 0; i < t->rows * t->columns; i++)
        most = fmaxf(most, t->count[i]);
    snprintf(title, sizeof title, "across: %s   dark 0, yellow %.0f", t->across, (double)most);
    io_image im = io_image_new(larger(width, io_text_width(title, 1)) + 2 * EDGE,
                               larger(height, io_text_width(t->down, 1)) + 2 * EDGE, paper);
    for (int64_t i = 0; i < t->rows * t->columns; i++)
        io_fill(&im, EDGE + cell * (int)(i % t->columns), EDGE + cell * (int)(i / t->columns),
                cell - (cell > 3), cell - (cell > 3), io_colormap(sqrt((double)(t->count[i] / most))));
    io_text(&im, EDGE, 6, 1, false, ink, title);
    io_text(&im, 8, EDGE + io_text_width(t->down, 1), 1, true, ink, t->down);
    if (io_write_png(picture_path, &im, NULL, 0, written, err))
        printf("  picture: %s (down: %s; across: %s)\n", written, t->down, t->across);
    else
        printf("  no picture: %s\n", err);
    io_image_free(&im);
}

int exercise_end(const touched *picture)
{
    if (picture_path)
        draw(picture);
    if (failure[0])
        printf("not yet: %s\n", failure);
    else
        printf("pass\n");
    return failure[0] != 0;
}
