/* Draws maps: cells into pixels, axes, colour bars and legends. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "panels.h"

#define MARGIN 28
#define GAP 32        /* between panels */
#define LEFT 84       /* from the margin to the first panel: ticks and the name of the axis */
#define MAX_WIDTH 384 /* of a panel; more cells share pixels */
#define MAX_HEIGHT 720
#define MAX_CELL 24
#define MIN_SLOT 312 /* a panel's heading needs this much */
#define TEXT 2       /* pixels a dot */
#define TITLE 3
#define LINE 26  /* from line to line of text */
#define ACROSS 8 /* layers side by side in the grid */

static const rgb ink = {29, 29, 34}, soft = {96, 96, 106}, hidden = {205, 205, 205}, white = {255, 255, 255};
/* After Okabe and Ito: blue, vermilion and yellow stay apart for every common kind of colour blindness, and
 * differ in brightness besides. */
static const rgb both = {0, 114, 178}, missed = {213, 94, 0}, extra = {240, 196, 25};

/* ---- Cells into pixels ---------------------------------------------------------------------------- */

/* A map of rows x columns cells; `fold` neighbours share a pixel, or a cell has several. */
typedef struct raster {
    int64_t rows, columns, fold_rows, fold_columns;
    int cell_width, cell_height, width, height;
} raster;

typedef rgb cell_colour(const void *of, int64_t row, int64_t column);

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static void fit(int64_t cells, int most, int64_t *fold, int *cell, int *pixels)
{
    *fold = ceil_div(cells, most);
    const int shown = (int)ceil_div(cells, *fold);
    *cell = most / shown < MAX_CELL ? most / shown : MAX_CELL;
    *pixels = shown * *cell;
}

static raster make_raster(int64_t rows, int64_t columns, int max_width, int max_height)
{
    raster g = {.rows = rows, .columns = columns};
    fit(rows, max_height, &g.fold_rows, &g.cell_height, &g.height);
    fit(columns, max_width, &g.fold_columns, &g.cell_width, &g.width);
    return g;
}

/* The mean in (nearly) linear light, so that a few bright cells among dark ones keep their weight. */
static rgb mean_colour(const raster *g, cell_colour *colour, const void *of, int64_t row, int64_t column)
{
    double red = 0, green = 0, blue = 0, n = 0;
    for (int64_t r = row; r < row + g->fold_rows && r < g->rows; r++)
        for (int64_t c = column; c < column + g->fold_columns && c < g->columns; c++) {
            const rgb x = colour(of, r, c);
            red += x.r * x.r;
            green += x.g * x.g;
            blue += x.b * x.b;
            n++;
        }
    return (rgb){(uint8_t)lround(sqrt(red / n)), (uint8_t)lround(sqrt(green / n)),
                 (uint8_t)lround(sqrt(blue / n))};
}

static void draw_cells(canvas *im, int x, int y, const raster *g, cell_colour *colour, const void *of)
{
    for (int row = 0; row < g->height / g->cell_height; row++)
        for (int column = 0; column < g->width / g->cell_width; column++)
            canvas_fill(im, x + column * g->cell_width, y + row * g->cell_height, g->cell_width,
                        g->cell_height,
                        mean_colour(g, colour, of, row * g->fold_rows, column * g->fold_columns));
}

/* ---- Axes, legends -------------------------------------------------------------------------------- */

static void centred(canvas *im, int x, int y, rgb c, const char *text)
{
    canvas_text(im, x - canvas_text_width(text, TEXT) / 2, y, TEXT, false, c, text);
}

/* Block sizes are powers of two as a rule, so ticks are too: the least step that leaves `most` or fewer. */
static int64_t tick_step(int64_t count, int most)
{
    int64_t step = 1;
    while (count / step >= most)
        step *= 2;
    return step;
}

/* Ticks across the foot of a panel. */
static void draw_columns_axis(canvas *im, int x, int y, const raster *g)
{
    const int64_t step = tick_step(g->columns, g->width / 56 > 1 ? g->width / 56 : 1);
    for (int64_t c = 0; c < g->columns; c += step) {
        char label[24];
        const int at = x + (int)(c / g->fold_columns) * g->cell_width + g->cell_width / 2;
        snprintf(label, sizeof label, "%lld", (long long)c);
        canvas_fill(im, at, y + g->height, 1, 6, soft);
        centred(im, at, y + g->height + 10, soft, label);
    }
}

/* Ticks down its left side, and what they count; row 0 is number `first`. Without a name the ticks stay
 * bare: the panel beside it has the numbers. */
static void draw_rows_axis(canvas *im, int x, int y, const raster *g, int64_t first, const char *name)
{
    const int64_t step = tick_step(g->rows, g->height / 60 > 1 ? g->height / 60 : 1);
    for (int64_t p = ceil_div(first, step) * step; p < first + g->rows; p += step) {
        char label[24];
        const int at = y + (int)((p - first) / g->fold_rows) * g->cell_height + g->cell_height / 2;
        snprintf(label, sizeof label, "%lld", (long long)p);
        canvas_fill(im, x - 6, at, 6, 1, soft);
        if (name)
            canvas_text(im, x - 10 - canvas_text_width(label, TEXT), at - canvas_text_height(TEXT) / 2, TEXT,
                        false, soft, label);
    }
    if (name)
        canvas_text(im, x - LEFT - 4, y + (g->height + canvas_text_width(name, TEXT)) / 2, TEXT, true, ink,
                    name);
}

static int swatch(canvas *im, int x, int y, rgb c, const char *name)
{
    canvas_fill(im, x, y, 18, 18, soft);
    canvas_fill(im, x + 1, y + 1, 16, 16, c);
    canvas_text(im, x + 26, y, TEXT, false, ink, name);
    return x + 26 + canvas_text_width(name, TEXT) + 20;
}

/* The whole map of colours. Its labels are the powers of ten from 10^decades to 1 or, where decades is 0,
 * a linear scale from 0 to 1. */
static void colour_bar(canvas *im, int x, int y, int decades, const char *name)
{
    const int labels = decades ? -decades : 2;
    for (int i = 0; i < MIN_SLOT; i++)
        canvas_fill(im, x + i, y, 1, 18, colormap((double)i / (MIN_SLOT - 1)));
    for (int i = 0; i <= labels; i++) { /* the first starts at the left end, the last ends at the right one */
        char label[24];
        snprintf(label, sizeof label, "%g", decades ? pow(10, decades + i) : (double)i / labels);
        canvas_text(im, x + (MIN_SLOT - canvas_text_width(label, TEXT)) * i / labels, y + LINE, TEXT, false,
                    soft, label);
    }
    canvas_text(im, x, y + 2 * LINE, TEXT, false, ink, name);
}

/* Draws text in lines of at most `width` pixels, broken between words; without an image it only counts. */
static int draw_lines(canvas *im, int y, int width, const char *text)
{
    const int letter = canvas_text_width("ab", TEXT) - canvas_text_width("a", TEXT), most = width / letter;
    int lines = 0;
    for (const char *next; *text; text = next + strspn(next, " "), lines++) {
        next = text + strlen(text);
        if (next - text > most)
            for (next = text + most; next > text && *next != ' '; next--)
                ;
        if (next == text) /* one long word */
            next = text + most;
        char line[512];
        snprintf(line, sizeof line, "%.*s", (int)(next - text), text);
        if (im)
            canvas_text(im, MARGIN, y + lines * LINE, TEXT, false, soft, line);
    }
    return lines;
}

/* An image with a title, its source below, and room; in *top where that begins, below a line for headings. */
static canvas titled_image(int width, int height, const char *title, const char *source, int *top)
{
    const int words = canvas_text_width(title, TITLE), inner = width > words ? width : words;
    *top = MARGIN + 38 + (draw_lines(NULL, 0, inner, source) + 2) * LINE;
    canvas im = canvas_new(2 * MARGIN + inner, *top + height + MARGIN, white);
    canvas_text(&im, MARGIN, MARGIN, TITLE, false, ink, title);
    draw_lines(&im, MARGIN + 38, inner, source);
    return im;
}

/* ---- One layer and group -------------------------------------------------------------------------- */

typedef struct cells {
    const maps *m;
    int group, decades;
} cells;

static rgb share_colour(const cells *of, const float *map, int64_t i, int64_t b)
{
    const size_t at = maps_row(of->m, of->group, i) + (size_t)b;
    return of->m->fate[at] == MAPS_HIDDEN ? hidden : colormap(maps_level((double)map[at], of->decades));
}

static rgb score_colour(const void *of, int64_t i, int64_t b)
{
    return share_colour(of, ((const cells *)of)->m->share, i, b);
}

static rgb mass_colour(const void *of, int64_t i, int64_t b)
{
    return share_colour(of, ((const cells *)of)->m->mass, i, b);
}

static rgb fate_colour(const void *of, int64_t i, int64_t b)
{
    const cells *c = of;
    switch (c->m->fate[maps_row(c->m, c->group, i) + (size_t)b]) {
    case MAPS_HIDDEN:
        return hidden;
    case MAPS_CHOSEN:
        return extra;
    case MAPS_IDEAL:
        return missed;
    case MAPS_BOTH:
        return both;
    default:
        return white;
    }
}

static rgb chosen_colour(const void *of, int64_t i, int64_t b)
{
    const cells *c = of;
    const int32_t fate = c->m->fate[maps_row(c->m, c->group, i) + (size_t)b];
    return fate == MAPS_HIDDEN ? hidden : fate & MAPS_CHOSEN ? ink : white;
}

static void share_legend(canvas *im, int x, int y, int decades)
{
    colour_bar(im, x, y, decades, "part of the row, log scale");
}

static void chosen_legend(canvas *im, int x, int y, int decades)
{
    (void)decades;
    swatch(im, swatch(im, x, y, ink, "chosen"), y, white, "not chosen");
    swatch(im, x, y + LINE + 4, hidden, "after the query");
}

static void fate_legend(canvas *im, int x, int y, int decades)
{
    (void)decades;
    swatch(im, x, y, both, "chosen and ideal");
    swatch(im, x, y + LINE + 4, missed, "missed: ideal only");
    swatch(im, x, y + 2 * (LINE + 4), extra, "extra: chosen only");
}

static const struct {
    const char *heading;
    cell_colour *colour;
    void (*legend)(canvas *im, int x, int y, int decades);
} panel[] = {
    {"Index score, row softmax", score_colour, share_legend},
    {"Chosen blocks", chosen_colour, chosen_legend},
    {"Main Branch block mass", mass_colour, share_legend},
    {"Chosen against ideal", fate_colour, fate_legend},
};

static void layer_title(const maps *m, int layer, int group, char *title, size_t size)
{
    double block_recall, score_recall;
    if (m->recall && maps_recall(m, group, &block_recall, &score_recall))
        snprintf(title, size, "Layer %d, group %d: block recall %.2f, score recall %.2f", layer, group,
                 block_recall, score_recall);
    else
        snprintf(title, size, "Layer %d, group %d", layer, group);
}

canvas panels_draw(const maps *m, int layer, int group, const char *source)
{
    const msa_shape *s = &m->shape;
    const raster g = make_raster(s->n_q, m->n_blocks, MAX_WIDTH, MAX_HEIGHT);
    const cells of = {m, group, maps_decades(m->n_blocks)};
    const int n = m->mass ? 4 : 2, slot = g.width > MIN_SLOT ? g.width : MIN_SLOT;
    char title[128];
    layer_title(m, layer, group, title, sizeof title);
    int top;
    canvas im = titled_image(LEFT + n * (slot + GAP) - GAP, g.height + 3 * LINE + 3 * (LINE + 4), title,
                             source, &top);
    for (int i = 0; i < n; i++) {
        const int x = MARGIN + LEFT + i * (slot + GAP), foot = top + g.height;
        canvas_text(&im, x, top - LINE, TEXT, false, ink, panel[i].heading);
        draw_cells(&im, x, top, &g, panel[i].colour, &of);
        draw_columns_axis(&im, x, top, &g);
        draw_rows_axis(&im, x, top, &g, s->n_kv - s->n_q, i ? NULL : "query position");
        centred(&im, x + g.width / 2, foot + 10 + LINE, ink, "key block");
        panel[i].legend(&im, x, foot + 10 + 5 * LINE / 2, of.decades);
    }
    return im;
}

/* ---- All layers and groups ------------------------------------------------------------------------ */

typedef struct frequencies {
    const float *map;
    int64_t columns;
} frequencies;

static rgb frequency_colour(const void *of, int64_t row, int64_t column)
{
    const frequencies *f = of;
    const float x = f->map[row * f->columns + column];
    return x < 0 ? hidden : colormap((double)x);
}

canvas panels_frequency(const panels_grid *grid, const char *source)
{
    const int across = grid->n_layers < ACROSS ? grid->n_layers : ACROSS,
              lines = (grid->n_layers - 1) / ACROSS + 1;
    const int most = across <= 4 ? MAX_WIDTH : MAX_WIDTH / 2;
    const raster g = make_raster(grid->query_blocks, grid->key_blocks, most, most);
    const int slot = (g.width > MAX_WIDTH / 2 ? g.width : MAX_WIDTH / 2) + GAP + 20,
              row = g.height + 4 * LINE;
    int top;
    canvas im = titled_image(LEFT + across * slot, lines * grid->n_groups * row + 3 * LINE,
                             "How often each key block is chosen", source, &top);
    for (int l = 0; l < grid->n_layers; l++)
        for (int r = 0; r < grid->n_groups; r++) {
            const frequencies of = {grid->frequency + (l * grid->n_groups + r) * g.rows * g.columns,
                                    g.columns};
            const int x = MARGIN + LEFT + l % ACROSS * slot,
                      y = top + (l / ACROSS * grid->n_groups + r) * row;
            char name[64];
            snprintf(name, sizeof name, "layer %d group %d", grid->layer[l], r);
            canvas_text(&im, x, y - LINE, TEXT, false, ink, name);
            draw_cells(&im, x, y, &g, frequency_colour, &of);
            draw_columns_axis(&im, x, y, &g);
            draw_rows_axis(&im, x, y, &g, grid->key_blocks - grid->query_blocks,
                           l % ACROSS ? NULL : "query block");
            centred(&im, x + g.width / 2, y + g.height + 10 + LINE, ink, "key block");
        }
    colour_bar(&im, MARGIN + LEFT, top + lines * grid->n_groups * row, 0,
               "part of the block's queries that choose the key block");
    return im;
}
