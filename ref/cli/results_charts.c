/* Pictures of files of results, both axes logarithmic. */
#ifdef HAVE_JANSSON

#include "results_charts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../picture/drawing.h"
#include "cli.h"

#define WIDTH 1000
#define HEIGHT 620
#define LEFT 90
#define RIGHT 250 /* for names */
#define TOP 60
#define BOTTOM 60
#define DOT 11
#define TEXT 2 /* scale */
#define MAX_POINTS 512

static const rgb white = {255, 255, 255}, ink = {20, 20, 20}, grid = {220, 224, 228}, paper = {213, 94, 0};
/* Told apart without colour vision (Okabe and Ito); names stand beside the last dot too. */
static const rgb colours[] = {{0, 114, 178},   {0, 158, 115},  {230, 159, 0},
                              {204, 121, 167}, {86, 180, 233}, {20, 20, 20}};
#define N_COLOURS (sizeof colours / sizeof *colours)

typedef struct point {
    const char *series;
    double x, y;
    char text[DRAWING_TEXT];
} point;

typedef struct chart {
    const char *title, *down, *across;
    point p[MAX_POINTS];
    int n;
    double x0, x1, y0, y1; /* limits, in powers of two */
    drawing d;
} chart;

/* ---- Types ---------------------------------------------------------------------------------------------- */

bool charts_is_gpu(const json_t *file)
{
    return *charts_words(file, "cuda");
}

/* Older files do not say: on a CPU their kernels of bf16 are those called amx. */
static bool is_bf16(const json_t *file, const json_t *r)
{
    const char *dtype = charts_words(r, "dtype");
    if (*dtype)
        return strcmp(dtype, "bf16") == 0;
    return charts_is_gpu(file) || strncmp(charts_words(r, "kernel"), "amx", 3) == 0;
}

const char *charts_kind(const json_t *file, const json_t *r)
{
    const json_t *tiles = json_object_get(json_object_get(file, "ceilings"), "tiles");
    return !is_bf16(file, r) ? "float32" : json_is_false(tiles) ? "bf16 without tiles" : "bf16";
}

double charts_product(const json_t *file, const json_t *r)
{
    const json_t *of = json_object_get(file, "ceilings");
    return is_bf16(file, r) ? charts_number(of, "matmul_bf16_tflops")
                            : 1e-3 * charts_number(of, "matmul_f32_gflops");
}

/* ---- Drawing ------------------------------------------------------------------------------------------- */

static double place_x(const chart *c, double x)
{
    return LEFT + (log2(x) - c->x0) / (c->x1 - c->x0) * (WIDTH - LEFT - RIGHT);
}
static double place_y(const chart *c, double y)
{
    return HEIGHT - BOTTOM - (log2(y) - c->y0) / (c->y1 - c->y0) * (HEIGHT - TOP - BOTTOM);
}

static void set_limits(chart *c)
{
    for (int i = 0; i < c->n; i++) {
        const double x = log2(c->p[i].x), y = log2(c->p[i].y);
        c->x0 = i ? fmin(c->x0, floor(x)) : floor(x);
        c->x1 = i ? fmax(c->x1, ceil(x)) : ceil(x);
        c->y0 = i ? fmin(c->y0, floor(y)) : floor(y);
        c->y1 = i ? fmax(c->y1, ceil(y)) : ceil(y);
    }
    c->x1 = fmax(c->x1, c->x0 + 1);
    c->y1 = fmax(c->y1, c->y0 + 1);
}

static void label(double value, char text[32])
{
    if (value >= 1 << 20)
        snprintf(text, 32, "%gM", value / (1 << 20));
    else if (value >= 1 << 10)
        snprintf(text, 32, "%gK", value / (1 << 10));
    else
        snprintf(text, 32, "%g", value);
}

static void draw_axes(chart *c)
{
    char text[32];
    for (double x = c->x0; x <= c->x1; x++) {
        drawing_fill(&c->d, place_x(c, exp2(x)), TOP, 1, HEIGHT - TOP - BOTTOM, grid, NULL);
        label(exp2(x), text);
        drawing_words(&c->d, place_x(c, exp2(x)) - 10, HEIGHT - BOTTOM + 10, TEXT, ink, text);
    }
    for (double y = c->y0; y <= c->y1; y++) {
        drawing_fill(&c->d, LEFT, place_y(c, exp2(y)), WIDTH - LEFT - RIGHT, 1, grid, NULL);
        label(exp2(y), text);
        drawing_words(&c->d, 20, place_y(c, exp2(y)) - 8, TEXT, ink, text);
    }
    drawing_words(&c->d, 20, 10, TEXT, ink, c->title);
    drawing_words(&c->d, 20, 34, TEXT, ink, c->down);
    drawing_words(&c->d, LEFT, HEIGHT - 26, TEXT, ink, c->across);
}

static int first_of(const chart *c, const char *series)
{
    int i = 0;
    while (strcmp(c->p[i].series, series) != 0)
        i++;
    return i;
}

/* How many series come before this point's. */
static int series_of(const chart *c, int i)
{
    int n = 0;
    for (int other = 0; other < first_of(c, c->p[i].series); other++)
        n += first_of(c, c->p[other].series) == other;
    return n;
}

static bool is_last(const chart *c, int i)
{
    for (int other = 0; other < c->n; other++)
        if (strcmp(c->p[other].series, c->p[i].series) == 0 &&
            (c->p[other].x > c->p[i].x || (c->p[other].x == c->p[i].x && other > i)))
            return false;
    return true;
}

/* The names stand beside the last dots, from the highest down, and give way to those above. */
static void draw_names(chart *c)
{
    double below = 0, end = 0; /* of the last name */
    bool done[MAX_POINTS] = {false};
    for (;;) {
        int next = -1;
        for (int i = 0; i < c->n; i++)
            if (!done[i] && is_last(c, i) && (next < 0 || c->p[i].y > c->p[next].y))
                next = i;
        if (next < 0)
            return;
        done[next] = true;
        const double x = place_x(c, c->p[next].x) + DOT, y = place_y(c, c->p[next].y) - 8;
        const double at = y < below && x < end ? below : y;
        drawing_words(&c->d, x, at, TEXT, colours[(size_t)series_of(c, next) % N_COLOURS], c->p[next].series);
        below = at + 18;
        end = x + RIGHT;
    }
}

static void draw_points(chart *c)
{
    for (int i = 0; i < c->n; i++)
        drawing_fill(&c->d, place_x(c, c->p[i].x) - DOT / 2.0, place_y(c, c->p[i].y) - DOT / 2.0, DOT, DOT,
                     colours[(size_t)series_of(c, i) % N_COLOURS], c->p[i].text);
    draw_names(c);
}

int charts_write(const char *command, const char *option, const char *path, drawing *d)
{
    const st_meta text[] = {{"Software", "msa " MSA_VERSION}};
    io_error err;
    char written[IO_ERR];
    const size_t n = strlen(path);
    const bool svg = n > 4 && strcmp(path + n - 4, ".svg") == 0;
    const bool ok =
        svg ? drawing_write_svg(d, path, text, 1, err) : drawing_write_png(d, path, text, 1, written, err);
    return ok ? 0 : cli_fail(command, "%s: %s", option, err);
}

static void begin(chart *c, const char *title, const char *down, const char *across)
{
    memset(c, 0, sizeof *c);
    c->title = title;
    c->down = down;
    c->across = across;
    c->d = (drawing){.width = WIDTH, .height = HEIGHT, .background = white};
}

static void add(chart *c, const char *series, double x, double y, const char *text)
{
    if (c->n == MAX_POINTS || !(x > 0) || !(y > 0))
        return;
    c->p[c->n] = (point){.series = series, .x = x, .y = y};
    snprintf(c->p[c->n++].text, DRAWING_TEXT, "%s", text);
}

/* ---- Speedup ------------------------------------------------------------------------------------------- */

static bool same(const json_t *a, const json_t *b, const char *field)
{
    return json_equal(json_object_get(a, field), json_object_get(b, field));
}

/* The fastest kernel of a stage, ours or a peer's, for the same prompt on the same device in the same type, and for
 * prefill the same selection; NULL: there is none. */
static const json_t *fastest(json_t *const *file, int n, const char *stage, const json_t *like_file,
                             const json_t *like)
{
    const char *device = charts_words(like_file, "device"), *kind = charts_kind(like_file, like);
    const json_t *best = NULL;
    const bool any_ids = strcmp(stage, "dense") == 0;
    for (int f = 0; f < n; f++) {
        size_t i;
        json_t *r;
        if (strcmp(charts_words(file[f], "device"), device) != 0)
            continue;
        json_array_foreach(json_object_get(file[f], "results"), i, r)
        {
            if (strcmp(charts_words(r, "stage"), stage) == 0 &&
                json_is_true(json_object_get(r, "verified")) && same(r, like, "n") && same(r, like, "n_q") &&
                same(r, like, "n_heads") && same(r, like, "batch") &&
                strcmp(charts_kind(file[f], r), kind) == 0 && (any_ids || same(r, like, "distribution")) &&
                (!best || charts_number(r, "ms_median") < charts_number(best, "ms_median")))
                best = r;
        }
    }
    return best;
}

int charts_speedup(const char *command, json_t *const *file, int n, drawing *d)
{
    static chart c; /* too large for a stack frame */
    begin(&c, "A layer's prefill: the fastest MSA over the fastest dense kernel of the machine",
          "times faster", "tokens");
    for (int f = 0; f < n; f++) {
        size_t i;
        json_t *r;
        json_array_foreach(json_object_get(file[f], "results"), i, r)
        {
            const char *device = charts_words(file[f], "device");
            const json_t *other = fastest(file, n, "dense", file[f], r);
            char text[DRAWING_TEXT];
            if (!other || fastest(file, n, "prefill", file[f], r) != r)
                continue;
            const double dense = charts_number(other, "ms_median"), ms = charts_number(r, "ms_median");
            snprintf(text, sizeof text, "%.80s, %s: dense/%.40s %.4g ms, MSA %.40s %.4g ms: %.2f", device,
                     charts_kind(file[f], r), charts_words(other, "kernel"), dense, charts_words(r, "kernel"),
                     ms, dense / ms);
            add(&c,
                *charts_words(r, "distribution") ? charts_words(r, "distribution") : charts_kind(file[f], r),
                charts_number(r, "n"), dense / ms, text);
        }
    }
    if (c.n == 0)
        return cli_fail(command,
                        "--speedup: expected results of prefill and dense for the same prompt, found none");
    add(&c, "paper: 14.2", 1 << 20, 14.2, "the paper, H800: 14.2 at 1M tokens");
    set_limits(&c);
    draw_axes(&c);
    drawing_fill(&c.d, LEFT, place_y(&c, 14.2), WIDTH - LEFT - RIGHT, 2, paper, "14.2");
    draw_points(&c);
    *d = c.d;
    return 0;
}

/* ---- Roofline ------------------------------------------------------------------------------------------ */

/* The roof over a result as short steps: the copy's rate times intensity, up to the product's rate. */
static void draw_roof(chart *c, const json_t *file, const json_t *r)
{
    const double copy = charts_number(json_object_get(file, "ceilings"), "copy_gbps") * 1e-3,
                 product = charts_product(file, r);
    for (double x = c->x0; x <= c->x1 && copy > 0 && product > 0; x += 0.01) {
        const double rate = fmin(copy * exp2(x), product);
        if (log2(rate) >= c->y0 && log2(rate) <= c->y1)
            drawing_fill(&c->d, place_x(c, exp2(x)), place_y(c, rate), 3, 3, paper, NULL);
    }
}

/* One of each type. */
static void draw_roofs(chart *c, const json_t *file)
{
    const json_t *list = json_object_get(file, "results");
    size_t i;
    json_t *r;
    bool drawn[2] = {false, false};
    json_array_foreach(list, i, r)
    {
        bool *one = &drawn[is_bf16(file, r)];
        if (!*one)
            draw_roof(c, file, r);
        *one = true;
    }
}

int charts_roofline(const char *command, json_t *const *file, int n, drawing *d)
{
    static chart c;
    begin(&c, "Results under the roof of their own run: copy, then matrix product", "useful TFLOP/s",
          "useful operations a byte that has to move");
    for (int f = 0; f < n; f++) {
        size_t i;
        json_t *r;
        json_array_foreach(json_object_get(file[f], "results"), i, r)
        {
            const double tflops = charts_number(r, "useful_tflops"), gbps = charts_number(r, "gbps");
            char text[DRAWING_TEXT];
            snprintf(text, sizeof text, "%.80s, %s, %.20s/%.60s %.20s n=%.0f: %.4g TFLOP/s",
                     charts_words(file[f], "device"), charts_kind(file[f], r), charts_words(r, "stage"),
                     charts_words(r, "kernel"), charts_words(r, "distribution"), charts_number(r, "n"),
                     tflops);
            if (tflops > 0 && gbps > 0 && json_is_true(json_object_get(r, "verified")))
                add(&c, charts_words(r, "stage"), 1e3 * tflops / gbps, tflops, text);
        }
    }
    if (c.n == 0)
        return cli_fail(command, "--roofline: expected results with operations and bytes, found none");
    set_limits(&c);
    c.y1 += 1;
    draw_axes(&c);
    for (int f = 0; f < n; f++)
        draw_roofs(&c, file[f]);
    draw_points(&c);
    *d = c.d;
    return 0;
}

#else
typedef int nothing_to_draw; /* ISO C wants something here */
#endif
