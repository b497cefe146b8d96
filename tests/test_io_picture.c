/**
 * @file test_io_picture.c
 * @brief Pictures: drawing stays on the canvas, glyphs are distinct and fit their box, the colours rise in
 *        brightness, and the file holds the pixels and the texts.
 */
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef HAVE_PNG
#include <png.h>
#endif

#include "../ref/picture/canvas.h"
#include "../ref/picture/drawing.h"
#include "support/scratch.h"
#include "support/tap.h"

static const rgb white = {255, 255, 255}, black = {0, 0, 0}, red = {200, 10, 20};

static bool same_colour(rgb a, rgb b)
{
    return a.r == b.r && a.g == b.g && a.b == b.b;
}

static rgb at(const canvas *im, int x, int y)
{
    return im->pixel[y * im->width + x];
}

/* The pixels of this colour. */
static int count(const canvas *im, rgb c)
{
    int n = 0;
    for (int i = 0; i < im->width * im->height; i++)
        n += same_colour(im->pixel[i], c);
    return n;
}

/* ---- Drawing ------------------------------------------------------------------------------------- */

static void test_fill(void)
{
    canvas im = canvas_new(7, 5, white);
    tap(im.pixel && count(&im, white) == 35, "a canvas of one colour");
    canvas_fill(&im, 1, 2, 3, 2, red);
    tap(count(&im, red) == 6 && same_colour(at(&im, 1, 2), red) && same_colour(at(&im, 3, 3), red),
        "a rectangle where it belongs");
    canvas_fill(&im, -2, -3, 4, 5, black);
    tap(count(&im, black) == 4, "clipped at the top left");
    canvas_fill(&im, 6, 4, 100, 100, black);
    canvas_fill(&im, 7, 0, 1, 5, black);
    canvas_fill(&im, 2, 2, 0, 3, black);
    canvas_fill(&im, 2, 2, -1, -1, black);
    tap(count(&im, black) == 5, "clipped at the bottom right; outside or empty draws nothing");
    canvas_fill(&im, INT_MIN, INT_MIN, INT_MAX, INT_MAX, red);
    canvas_fill(&im, INT_MAX, INT_MAX, INT_MAX, INT_MAX, red);
    tap(count(&im, black) == 5, "far outside draws nothing");
    canvas_fill(&im, 5, 4, INT_MAX, INT_MAX, red);
    tap(count(&im, black) == 4 && same_colour(at(&im, 5, 4), red) && same_colour(at(&im, 6, 4), red),
        "a huge rectangle covers the corner");
    canvas_fill(&im, -5, -5, INT_MAX, INT_MAX, red);
    tap(count(&im, red) == 35, "a huge rectangle covers all");
    canvas_free(&im);
    tap(!im.pixel && im.width == 0, "a freed canvas is empty");
    canvas_fill(&im, 0, 0, 5, 5, red);
    canvas_text(&im, 0, 0, 1, false, red, "text");
    tap(true, "drawing on an empty canvas does nothing");
    const int bad[][2] = {{0, 5}, {5, 0}, {-1, 5}, {5, -1}, {INT_MIN, INT_MIN}};
    bool empty = true;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        empty &= !canvas_new(bad[i][0], bad[i][1], white).pixel;
    tap(empty, "sizes below 1 give an empty canvas");
}

/* ---- Text ------------------------------------------------------------------------------------------ */

static bool same_glyph(int a, int b)
{
    for (int row = 0; row < FONT_ROWS; row++)
        for (int column = 0; column < FONT_COLUMNS; column++)
            if (font_dot((unsigned char)a, row, column) != font_dot((unsigned char)b, row, column))
                return false;
    return true;
}

static void test_font(void)
{
    bool distinct = true;
    for (int a = ' '; a <= 0x7f; a++)
        for (int b = ' '; b < a; b++)
            if (same_glyph(a, b)) {
                tap_note("%c and %c look the same", a, b);
                distinct = false;
            }
    tap(distinct, "no two glyphs are the same");
    bool boxes = true;
    for (int c = 0; c < 256; c++)
        boxes &= same_glyph(c, 0x7f) == (c < ' ' || c >= 0x7f);
    tap(boxes, "what is not printable ASCII is a box");
    uint64_t sum = 1; // of every dot; whoever draws a letter anew looks at it, then puts the new sum here
    for (int c = ' '; c <= 0x7f; c++)
        for (int dot = 0; dot < FONT_ROWS * FONT_COLUMNS; dot++)
            sum = (sum ^ font_dot((unsigned char)c, dot / FONT_COLUMNS, dot % FONT_COLUMNS)) * 0x100000001b3u;
    tap(sum == 0x464261f08ea66fc1, "the letters are those that were drawn (%#" PRIx64 ")", sum);
}

static void test_text(void)
{
    static const char text[] = "Msa_|#";
    for (int scale = 1; scale <= 3; scale++) {
        const int width = canvas_text_width(text, scale), height = canvas_text_height(scale), margin = 4;
        canvas flat = canvas_new(width + 2 * margin, height + 2 * margin, white);
        canvas tall = canvas_new(height + 2 * margin, width + 2 * margin, white);
        canvas_text(&flat, margin, margin, scale, false, black, text);
        canvas_text(&tall, margin, margin + width, scale, true, black, text);
        bool turned = true, inside = true;
        for (int y = 0; y < flat.height; y++)
            for (int x = 0; x < flat.width; x++) {
                rgb c = at(&flat, x, y);
                turned &= same_colour(c, at(&tall, y, flat.width - 1 - x));
                bool in_box = x >= margin && x < margin + width && y >= margin && y < margin + height;
                inside &= in_box || same_colour(c, white);
            }
        int dots = 0;
        for (const char *c = text; *c; c++)
            for (int i = 0; i < FONT_ROWS * FONT_COLUMNS; i++)
                dots += font_dot((unsigned char)*c, i / FONT_COLUMNS, i % FONT_COLUMNS);
        tap(count(&flat, black) == dots * scale * scale, "every dot is drawn at scale %d", scale);
        tap(inside, "text stays in its box at scale %d", scale);
        tap(turned, "vertical text is a quarter turn to the left at scale %d", scale);
        canvas_free(&flat);
        canvas_free(&tall);
    }
    tap(canvas_text_width("", 2) == 0 && canvas_text_width("a", 2) == 10 && canvas_text_width("ab", 2) == 22,
        "the width leaves out the last gap");
}

/* ---- Colours ---------------------------------------------------------------------------------------- */

/* Relative luminance of sRGB to CIE lightness, 0..100. */
static double lightness(rgb c)
{
    const double v[3] = {c.r / 255.0, c.g / 255.0, c.b / 255.0}, part[3] = {0.2126, 0.7152, 0.0722};
    double y = 0;
    for (int i = 0; i < 3; i++)
        y += part[i] * (v[i] <= 0.04045 ? v[i] / 12.92 : pow((v[i] + 0.055) / 1.055, 2.4));
    return y > 0.008856 ? 116 * cbrt(y) - 16 : 903.3 * y;
}

static void test_colormap(void)
{
    const rgb first = colormap(0), last = colormap(1), none = colormap(NAN);
    tap(same_colour(first, (rgb){68, 1, 84}) && same_colour(last, (rgb){253, 231, 37}),
        "from dark violet to yellow");
    tap(same_colour(colormap(-1), first) && same_colour(colormap(-INFINITY), first) &&
            same_colour(colormap(2), last) && same_colour(colormap(INFINITY), last),
        "values outside are clamped");
    tap(none.r == none.g && none.g == none.b, "NaN is grey");
    const double from = lightness(first), to = lightness(last);
    double off = 0;
    bool rises = true;
    for (int i = 0; i <= 64; i++) {
        double l = lightness(colormap(i / 64.0));
        rises &= i == 0 || l > lightness(colormap((i - 1) / 64.0));
        off = fmax(off, fabs(l - (from + (to - from) * i / 64.0)));
    }
    tap(rises && off <= 2, "lightness rises evenly: off a straight line by at most 2 of 100 (%.2f)", off);
}

/* ---- Files -------------------------------------------------------------------------------------------- */

static canvas sample(void)
{
    canvas im = canvas_new(40, 30, white);
    for (int x = 0; x < 40; x++)
        canvas_fill(&im, x, 0, 1, 15, colormap(x / 39.0));
    canvas_text(&im, 1, 18, 1, false, black, "sample");
    return im;
}

static const st_meta texts[] = {
    {"Command", "msa dump --out \"x\""}, {"Seed", "42\n43"}, {"Note", "\xc3\xa9"}};

static bool contains(const unsigned char *data, size_t bytes, const char *what, size_t n)
{
    for (size_t i = 0; i + n <= bytes; i++)
        if (memcmp(data + i, what, n) == 0)
            return true;
    return false;
}

#ifdef HAVE_PNG
#define SUFFIX ".png"

static bool same_pixels(const char *path, const canvas *im)
{
    png_image png = {.version = PNG_IMAGE_VERSION};
    if (!png_image_begin_read_from_file(&png, path))
        return false;
    png.format = PNG_FORMAT_RGB;
    size_t bytes = PNG_IMAGE_SIZE(png);
    void *pixels = malloc(bytes);
    bool same = (int)png.width == im->width && (int)png.height == im->height && pixels &&
                png_image_finish_read(&png, NULL, pixels, 0, NULL) && memcmp(pixels, im->pixel, bytes) == 0;
    free(pixels);
    png_image_free(&png);
    return same;
}

static bool has_texts(const unsigned char *data, size_t bytes)
{
    return contains(data, bytes, "tEXtCommand\0msa dump --out \"x\"", 30) &&
           contains(data, bytes, "tEXtSeed\00042\n43", 14) &&
           contains(data, bytes, "iTXtNote\0\0\0\0\0\xc3\xa9", 15);
}

#else
#define SUFFIX ".ppm"

static bool same_pixels(const char *path, const canvas *im)
{
    unsigned char *data;
    size_t bytes, pixels = (size_t)im->width * (size_t)im->height * 3;
    io_error err;
    if (!io_read_file(path, 1 << 20, &data, &bytes, err))
        return false;
    bool same = bytes > pixels && memcmp(data, "P6\n", 3) == 0 &&
                memcmp(data + bytes - pixels - 10, "40 30\n255\n", 10) == 0 &&
                memcmp(data + bytes - pixels, im->pixel, pixels) == 0;
    free(data);
    return same;
}

static bool has_texts(const unsigned char *data, size_t bytes)
{
    static const char expected[] = "# Command: msa dump --out \"x\"\n# Seed: 42\n# 43\n# Note: \xc3\xa9\n";
    return contains(data, bytes, expected, sizeof expected - 1);
}

#endif

static void test_picture_file(void)
{
    canvas im = sample();
    io_error err = "";
    char written[IO_ERR] = "";
    unsigned char *data = NULL;
    size_t bytes = 0;
    const char *expected = scratch("sample" SUFFIX);
    bool ok = canvas_write_png(scratch("sample.png"), &im, texts, 3, written, err) &&
              strcmp(written, expected) == 0;
    tap(scratch_no_error(ok, err), "a picture is written, and its name told");
    tap(ok && same_pixels(written, &im), "it holds the pixels");
    ok = ok && io_read_file(written, 1 << 20, &data, &bytes, err);
    tap(ok && has_texts(data, bytes), "it holds the texts");
    ok = ok && canvas_write_png(scratch("again.png"), &im, texts, 3, written, err);
    tap(ok && scratch_holds(written, data, bytes), "the same picture is the same bytes");
    tap(scratch_no_error(canvas_write_png(scratch("plain.png"), &im, NULL, 0, NULL, err), err),
        "without texts or a name back");
    free(data);
    canvas_free(&im);
}

static void test_refused_pictures(void)
{
    canvas im = sample(), none = {0, 0, NULL};
    io_error err = "";
    int before = scratch_count();
    tap(!canvas_write_png(scratch("none.png"), &none, NULL, 0, NULL, err) &&
            scratch_one_line(err, scratch("none.png"), "the picture is empty"),
        "an empty canvas");
    tap(!canvas_write_png(scratch("absent/x.png"), &im, texts, 3, NULL, err) &&
            scratch_one_line(err, scratch("absent/x" SUFFIX), "No such file"),
        "a directory that is not there");
    char longest[IO_ERR + 8];
    memset(longest, 'n', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    tap(!canvas_write_png(longest, &im, NULL, 0, NULL, err) && strstr(err, "expected a name of at most"),
        "a name that is too long");
#ifdef HAVE_PNG
    const st_meta nameless = {"", "text"};
    tap(!canvas_write_png(scratch("key.png"), &im, &nameless, 1, NULL, err) &&
            scratch_one_line(err, scratch("key.png"), "cannot make a PNG"),
        "a text without a key");
#endif
    tap(scratch_count() == before, "nothing is left behind");
    canvas_free(&im);
}

/* ---- Lists of marks --------------------------------------------------------------------------------- */

/* Two hatches of one colour share a pattern; text ends where the marks do. */
static drawing marks(void)
{
    drawing d = {.width = 30, .height = 20, .background = white};
    drawing_fill(&d, 1.4, 2.6, 4, 3, red, NULL);
    drawing_fill(&d, 10, 2, 0.2, 0.2, black, "a <b> & \"c\"\x7f.\n");
    drawing_hatch(&d, 12, 2, 8, 7, black, NULL);
    drawing_hatch(&d, 21, 2, 2, 2, black, "once");
    drawing_hatch(&d, 24, 2, 2, 2, red, NULL);
    drawing_words(&d, 1, 10, 1, black, "<x>");
    drawing_words(&d, 1, 18, 1, black, "");
    return d;
}

static void test_drawing_svg(void)
{
    static const char expected[] =
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 30 20\" width=\"30\" height=\"20\" "
        "shape-rendering=\"crispEdges\" font-family=\"'DejaVu Sans Mono', Consolas, Menlo, monospace\" "
        "xml:space=\"preserve\">\n"
        "<desc>Command: msa dump --out &quot;x&quot;\nSeed: 42?43\n</desc>\n"
        "<defs>\n"
        "<pattern id=\"h000000\" width=\"4\" height=\"6\" patternUnits=\"userSpaceOnUse\" "
        "patternTransform=\"rotate(45)\"><rect width=\"1\" height=\"6\" fill=\"#000000\"/></pattern>\n"
        "<pattern id=\"hc80a14\" width=\"4\" height=\"6\" patternUnits=\"userSpaceOnUse\" "
        "patternTransform=\"rotate(45)\"><rect width=\"1\" height=\"6\" fill=\"#c80a14\"/></pattern>\n"
        "</defs>\n"
        "<rect width=\"30\" height=\"20\" fill=\"#ffffff\"/>\n"
        "<rect x=\"1.40\" y=\"2.60\" width=\"4.00\" height=\"3.00\" fill=\"#c80a14\"/>\n"
        "<rect x=\"10.00\" y=\"2.00\" width=\"0.20\" height=\"0.20\" fill=\"#000000\">"
        "<title>a &lt;b&gt; &amp; &quot;c&quot;?.?</title></rect>\n"
        "<rect x=\"12.00\" y=\"2.00\" width=\"8.00\" height=\"7.00\" fill=\"url(#h000000)\"/>\n"
        "<rect x=\"21.00\" y=\"2.00\" width=\"2.00\" height=\"2.00\" "
        "fill=\"url(#h000000)\"><title>once</title></rect>\n"
        "<rect x=\"24.00\" y=\"2.00\" width=\"2.00\" height=\"2.00\" fill=\"url(#hc80a14)\"/>\n"
        "<text x=\"1.00\" y=\"17.00\" font-size=\"10\" textLength=\"17\" lengthAdjust=\"spacingAndGlyphs\" "
        "fill=\"#000000\">&lt;x&gt;</text>\n"
        "</svg>\n";
    drawing d = marks();
    io_error err;
    tap(scratch_no_error(drawing_write_svg(&d, scratch("marks.svg"), texts, 2, err), err) &&
            scratch_holds(scratch("marks.svg"), expected, sizeof expected - 1),
        "marks as SVG");
    for (int i = 0; i < 2000; i++)
        drawing_fill(&d, i, i, 1, 1, black, "so many that the list and the text grow");
    unsigned char *data = NULL;
    size_t bytes = 0;
    bool ok = drawing_write_svg(&d, scratch("many.svg"), NULL, 0, err) &&
              io_read_file(scratch("many.svg"), 1 << 20, &data, &bytes, err);
    tap(scratch_no_error(ok, err) && contains(data, bytes, "<rect x=\"1999.00\" y=\"1999.00\"", 29) &&
            bytes > 200000,
        "and many more of them");
    free(data);
    drawing_free(&d);
    tap(!d.mark && d.n == 0 && d.capacity == 0, "a freed list is empty");
    d.incomplete = true;
    tap(!drawing_write_svg(&d, scratch("less.svg"), NULL, 0, err) && strstr(err, "no memory") &&
            !drawing_write_png(&d, scratch("less.png"), NULL, 0, NULL, err) && strstr(err, "no memory"),
        "a list that lacks marks is not written");
}

static void test_drawing_png(void)
{
    drawing d = marks();
    canvas im = canvas_new(30, 20, white);
    canvas_fill(&im, 1, 3, 4, 3, red);
    canvas_fill(&im, 10, 2, 1, 1, black);
    for (int y = 2; y < 9; y++)
        for (int x = 12; x < 20; x++)
            if ((x + y) % 6 < 2)
                canvas_fill(&im, x, y, 1, 1, black);
    for (int y = 2; y < 4; y++)
        for (int x = 21; x < 26; x++)
            if (x != 23 && (x + y) % 6 < 2)
                canvas_fill(&im, x, y, 1, 1, x < 23 ? black : red);
    canvas_text(&im, 1, 10, 1, false, black, "<x>");
    char written[IO_ERR];
    io_error err;
    const bool ok = drawing_write_png(&d, scratch("marks.png"), NULL, 0, written, err);
    unsigned char *found = NULL, *expected = NULL;
    size_t n_found = 0, n_expected = 1;
    char by_hand[IO_ERR];
    tap(scratch_no_error(ok && canvas_write_png(scratch("hand.png"), &im, NULL, 0, by_hand, err) &&
                             io_read_file(written, 1 << 20, &found, &n_found, err) &&
                             io_read_file(by_hand, 1 << 20, &expected, &n_expected, err),
                         err) &&
            n_found == n_expected && memcmp(found, expected, n_found) == 0,
        "marks as pixels");
    free(found);
    free(expected);
    canvas_free(&im);
    drawing_free(&d);
}

int main(void)
{
    test_fill();
    test_font();
    test_text();
    test_colormap();
    test_picture_file();
    test_refused_pictures();
    test_drawing_svg();
    test_drawing_png();
    return tap_done();
}
