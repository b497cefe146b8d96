/* The picture of `msa bench`: a bar a kernel, as long as its rate, against the rate of a large product of its type. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../picture/drawing.h"
#include "cli.h"
#include "bench_results.h"

#define NAMES 230 /* pixels */
#define BARS 520
#define NUMBERS 470
#define ROW 34
#define TOP 64
#define SCALE 2 /* of text */

static const rgb white = {255, 255, 255}, ink = {20, 20, 20}, bar = {0, 114, 178}, limit = {213, 94, 0};

static bool is_drawn(const result *r)
{
    return r->time.repeats && r->flops > 0 && !r->engine;
}

static double gflops(const result *r)
{
    return r->flops / r->time.median * 1e-6;
}

/* A bar, and a mark where the product's rate is. */
static void draw_row(drawing *d, const results *all, const result *r, double y, double most)
{
    char name[KERNEL_NAME], numbers[128];
    const double rate = gflops(r), wide = BARS * rate / most, ceiling = 1e3 * result_ceiling(all, r);
    kernel_name(r->kernel, name);
    snprintf(numbers, sizeof numbers, "%.4g ms  %.3g GFLOP/s", r->time.median, rate);
    if (ceiling > 0)
        snprintf(numbers + strlen(numbers), sizeof numbers - strlen(numbers), "  %.0f%% of %s's",
                 100 * rate / ceiling, result_dtype(r));
    drawing_words(d, 10, y + 6, SCALE, ink, name);
    drawing_fill(d, NAMES, y, wide, ROW - 10, bar, numbers);
    if (ceiling > 0)
        drawing_fill(d, NAMES + BARS * ceiling / most, y - 6, 2, ROW + 2, limit, numbers);
    drawing_words(d, NAMES + BARS + 12, y + 6, SCALE, ink, numbers);
}

static void draw(drawing *d, const results *all)
{
    const ceilings *of = &all->ceilings;
    double most = 0, y = TOP;
    char title[DRAWING_TEXT];
    for (int i = 0; i < all->n; i++)
        if (is_drawn(&all->item[i]))
            most = fmax(most, fmax(gflops(&all->item[i]), 1e3 * result_ceiling(all, &all->item[i])));
    drawing_words(d, 10, 12, SCALE, ink, all->about.name);
    if (of->bf16_tflops > 0) {
        int n = snprintf(title, sizeof title, "line: a large product of the same type, GFLOP/s:");
        if (of->f32_tflops > 0)
            n += snprintf(title + n, sizeof title - (size_t)n, " f32 %.4g,", 1e3 * of->f32_tflops);
        snprintf(title + n, sizeof title - (size_t)n, " bf16 %.4g%s", 1e3 * of->bf16_tflops,
                 all->on_cpu && !of->tiles ? " without tiles" : "");
        drawing_words(d, 10, 36, SCALE, limit, title);
    }
    for (int i = 0; i < all->n; i++)
        if (is_drawn(&all->item[i])) {
            draw_row(d, all, &all->item[i], y, most);
            y += ROW;
        }
}

int results_draw(const char *command, const char *path, const results *all)
{
    int rows = 0;
    for (int i = 0; i < all->n; i++)
        rows += is_drawn(&all->item[i]);
    if (rows == 0)
        return cli_fail(command, "--picture: expected kernels whose operations are counted, found none");
    drawing d = {.width = NAMES + BARS + NUMBERS, .height = TOP + rows * ROW + 10, .background = white};
    const st_meta text[] = {{"Software", "msa " MSA_VERSION}};
    io_error err;
    char written[IO_ERR];
    if (cli_begin_output(command, "--picture", path))
        return 2;
    draw(&d, all);
    const size_t n = strlen(path);
    const bool svg = n > 4 && strcmp(path + n - 4, ".svg") == 0;
    const bool ok =
        svg ? drawing_write_svg(&d, path, text, 1, err) : drawing_write_png(&d, path, text, 1, written, err);
    drawing_free(&d);
    return ok ? cli_commit_outputs(command) : cli_fail(command, "--picture: %s", err);
}
