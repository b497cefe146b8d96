/**
 * @file drawing.c
 * @brief Rectangles and texts to pixels, and to SVG.
 */
#include "drawing.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define STRIPE 6 /* pixels from one stripe of a hatch to the next */

/* ---- The list ------------------------------------------------------------------------------------- */

static void add(drawing *d, drawing_mark m, const char *text)
{
    if (d->n == d->capacity) {
        const size_t capacity = 2 * d->capacity + 256;
        drawing_mark *grown = realloc(d->mark, capacity * sizeof *grown);
        if (!grown) {
            d->incomplete = true;
            return;
        }
        d->mark = grown;
        d->capacity = capacity;
    }
    snprintf(m.text, sizeof m.text, "%s", text ? text : "");
    d->mark[d->n++] = m;
}

void drawing_fill(drawing *d, double x, double y, double width, double height, rgb colour, const char *text)
{
    add(d, (drawing_mark){DRAWING_FILL, x, y, width, height, colour, 0, ""}, text);
}

void drawing_hatch(drawing *d, double x, double y, double width, double height, rgb colour, const char *text)
{
    add(d, (drawing_mark){DRAWING_HATCH, x, y, width, height, colour, 0, ""}, text);
}

void drawing_words(drawing *d, double x, double y, int scale, rgb colour, const char *text)
{
    add(d, (drawing_mark){DRAWING_WORDS, x, y, 0, 0, colour, scale, ""}, text);
}

void drawing_free(drawing *d)
{
    free(d->mark);
    d->mark = NULL;
    d->n = d->capacity = 0;
}

/* ---- PNG ------------------------------------------------------------------------------------------ */

static void paint_hatch(canvas *im, int x, int y, int width, int height, rgb c)
{
    for (int row = y; row < y + height; row++)
        for (int column = x; column < x + width; column++)
            if ((column + row) % STRIPE < STRIPE / 3)
                canvas_fill(im, column, row, 1, 1, c);
}

static void paint(canvas *im, const drawing_mark *m)
{
    const int x = (int)lround(m->x), y = (int)lround(m->y);
    const int right = (int)lround(m->x + m->width), foot = (int)lround(m->y + m->height);
    const int width = right > x ? right - x : 1, height = foot > y ? foot - y : 1;
    if (m->kind == DRAWING_FILL)
        canvas_fill(im, x, y, width, height, m->colour);
    else if (m->kind == DRAWING_HATCH)
        paint_hatch(im, x, y, width, height, m->colour);
    else
        canvas_text(im, x, y, m->scale, false, m->colour, m->text);
}

bool drawing_write_png(const drawing *d, const char *path, const st_meta *text, int n_text, char *written,
                       io_error err)
{
    if (d->incomplete)
        return io_fail(err, path, "no memory for the picture");
    canvas im = canvas_new(d->width, d->height, d->background);
    for (size_t i = 0; i < d->n; i++)
        paint(&im, &d->mark[i]);
    const bool ok = canvas_write_png(path, &im, text, n_text, written, err);
    canvas_free(&im);
    return ok;
}

/* ---- SVG ------------------------------------------------------------------------------------------ */

typedef struct sink {
    char *text;
    size_t n, capacity;
    bool failed;
} sink;

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
static void
put(sink *s, const char *format, ...)
{
    char line[2 * DRAWING_TEXT + 256];
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    const size_t bytes = n < (int)sizeof line ? (size_t)n : sizeof line - 1;
    if (s->n + bytes > s->capacity) {
        const size_t capacity = 2 * s->capacity + 65536;
        char *grown = realloc(s->text, capacity);
        if (!grown) {
            s->failed = true;
            return;
        }
        s->text = grown;
        s->capacity = capacity;
    }
    memcpy(s->text + s->n, line, bytes);
    s->n += bytes;
}

static void put_escaped(sink *s, const char *text)
{
    for (; *text; text++) {
        const char *const entity = *text == '&'   ? "&amp;"
                                   : *text == '<' ? "&lt;"
                                   : *text == '>' ? "&gt;"
                                   : *text == '"' ? "&quot;"
                                                  : NULL;
        if (entity)
            put(s, "%s", entity);
        else
            put(s, "%c", (unsigned char)*text < ' ' || *text == 127 ? '?' : *text);
    }
}

static bool same_colour(rgb a, rgb b)
{
    return a.r == b.r && a.g == b.g && a.b == b.b;
}

/* The stripes of each colour once. */
static void put_patterns(sink *s, const drawing *d)
{
    put(s, "<defs>\n");
    for (size_t i = 0; i < d->n; i++) {
        const rgb c = d->mark[i].colour;
        bool known = d->mark[i].kind != DRAWING_HATCH;
        for (size_t k = 0; k < i && !known; k++)
            known = d->mark[k].kind == DRAWING_HATCH && same_colour(d->mark[k].colour, c);
        if (!known)
            put(s,
                "<pattern id=\"h%02x%02x%02x\" width=\"%d\" height=\"%d\" patternUnits=\"userSpaceOnUse\" "
                "patternTransform=\"rotate(45)\"><rect width=\"%d\" height=\"%d\" "
                "fill=\"#%02x%02x%02x\"/></pattern>\n",
                c.r, c.g, c.b, STRIPE * 3 / 4, STRIPE, STRIPE / 4, STRIPE, c.r, c.g, c.b);
    }
    put(s, "</defs>\n");
}

static void put_rectangle(sink *s, const drawing_mark *m)
{
    put(s, "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" fill=\"", m->x, m->y, m->width,
        m->height);
    put(s, m->kind == DRAWING_HATCH ? "url(#h%02x%02x%02x)" : "#%02x%02x%02x", m->colour.r, m->colour.g,
        m->colour.b);
    put(s, m->text[0] ? "\"><title>" : "\"/>\n");
    if (m->text[0]) {
        put_escaped(s, m->text);
        put(s, "</title></rect>\n");
    }
}

/* As wide as in the PNG, whatever the viewer's font. */
static void put_words(sink *s, const drawing_mark *m)
{
    if (!m->text[0])
        return;
    put(s,
        "<text x=\"%.2f\" y=\"%.2f\" font-size=\"%d\" textLength=\"%d\" lengthAdjust=\"spacingAndGlyphs\" "
        "fill=\"#%02x%02x%02x\">",
        m->x, m->y + 7 * m->scale, 10 * m->scale, canvas_text_width(m->text, m->scale), m->colour.r,
        m->colour.g, m->colour.b);
    put_escaped(s, m->text);
    put(s, "</text>\n");
}

bool drawing_write_svg(const drawing *d, const char *path, const st_meta *text, int n_text, io_error err)
{
    sink s = {0};
    put(&s,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" "
        "viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" shape-rendering=\"crispEdges\" "
        "font-family=\"'DejaVu Sans Mono', Consolas, Menlo, monospace\" xml:space=\"preserve\">\n",
        d->width, d->height, d->width, d->height);
    put(&s, "<desc>");
    for (int i = 0; i < n_text; i++) {
        put_escaped(&s, text[i].key);
        put(&s, ": ");
        put_escaped(&s, text[i].value);
        put(&s, "\n");
    }
    put(&s, "</desc>\n");
    put_patterns(&s, d);
    put(&s, "<rect width=\"%d\" height=\"%d\" fill=\"#%02x%02x%02x\"/>\n", d->width, d->height,
        d->background.r, d->background.g, d->background.b);
    for (size_t i = 0; i < d->n; i++)
        if (d->mark[i].kind == DRAWING_WORDS)
            put_words(&s, &d->mark[i]);
        else
            put_rectangle(&s, &d->mark[i]);
    put(&s, "</svg>\n");
    const bool ok = d->incomplete || s.failed ? io_fail(err, path, "no memory for the picture")
                                              : io_write_file(path, &(io_chunk){s.text, s.n}, 1, err);
    free(s.text);
    return ok;
}
