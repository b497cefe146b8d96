/* Figure of chapter 10b: three tiles and what of them meets; and the clocks that the parts of a core are at work for a
 * pair, by counts. */
#include "../examples/tile_counts.h"
#include "draw.h"

#define CELL 11.0
#define SIDE (16 * CELL)
#define TOP 50.0
#define SCALE 520.0 /* a clock */

/* 16 rows of 16 words of 4 bytes. */
static void tile(double x, const char *name, const char *what)
{
    box(x, TOP, SIDE, SIDE, PALE, 0.6);
    for (int n = 0; n <= 16; n++) {
        line(x + n * CELL, TOP, x + n * CELL, TOP + SIDE, FAINT, n % 16 ? 0.4 : 1.2);
        line(x, TOP + n * CELL, x + SIDE, TOP + n * CELL, FAINT, n % 16 ? 0.4 : 1.2);
    }
    text(x + SIDE / 2, TOP - 12, "middle", INK, name);
    text(x + SIDE / 2, TOP + SIDE + 20, "middle", FAINT, what);
}

static void cells(double x, int column, int row, int columns, int rows, const char *colour)
{
    box(x + column * CELL, TOP + row * CELL, columns * CELL, rows * CELL, colour, 0.75);
}

/* A word of a factor, as large as can be read. */
static void word(double x, double y, const char *first, const char *second, const char *colour)
{
    for (int half = 0; half < 2; half++) {
        box(x + 89 * half, y, 87, 24, colour, 0.2);
        text(x + 89 * half + 43.5, y + 17, "middle", colour, half ? second : first);
    }
}

static void product(void)
{
    const double left = 20, right = 268, sum = 520;
    tile(left, "left: 16 keys", "32 channels in a row");
    tile(right, "right: 16 query rows", "pairs of channels in a row");
    tile(sum, "sum: logits", "float32");
    cells(left, 0, 5, 16, 1, BLUE);
    cells(right, 10, 0, 1, 16, ORANGE);
    cells(sum, 10, 5, 1, 1, GREEN);
    text((left + SIDE + right) / 2, TOP + SIDE / 2 + 5, "middle", INK, "times");
    text((right + SIDE + sum) / 2, TOP + SIDE / 2 + 5, "middle", INK, "adds to");
    word(left, TOP + SIDE + 36, "key 5, 2j", "key 5, 2j+1", BLUE);
    word(right, TOP + SIDE + 36, "row 10, 2j", "row 10, 2j+1", ORANGE);
    text(sum + SIDE / 2, TOP + SIDE + 53, "middle", FAINT, "8192 multiply-adds, 16 clocks");
}

static double bar(double x, double y, double wide, const char *colour, double opacity, const char *name)
{
    box(x, y, wide * SCALE, 20, colour, opacity);
    line(x + wide * SCALE, y, x + wide * SCALE, y + 20, "#fff", 1.5);
    text(x + wide * SCALE / 2, y + 15, "middle", INK, name);
    return x + wide * SCALE;
}

static void parts(double y, const char *name, const tally *t, bool index)
{
    const clocks c = clocks_of(t, 4, index);
    const double pairs = t->needed / (index ? 128 : 256), x = 150;
    char number[32];
    text(20, y + 15, "start", INK, name);
    const double values[] = {c.products, c.memory, c.maxima + c.powers + c.factors};
    static const char *const unit[] = {"tiles", "L1 cache", "vectors"};
    for (int n = 0; n < 3; n++) {
        snprintf(number, sizeof number, "%.2f", values[n] / pairs);
        text(x - 8, y + 24 * n + 15, "end", FAINT, unit[n]);
        text(x + values[n] / pairs * SCALE + 8, y + 24 * n + 15, "start", INK, number);
    }
    bar(x, y, c.products / pairs, BLUE, 0.55, "products");
    bar(x, y + 24, c.memory / pairs, FAINT, 0.3, "loads");
    double at = bar(x, y + 48, c.maxima / pairs, ORANGE, 0.25, index ? "" : "maxima");
    if (index)
        return;
    at = bar(at, y + 48, c.powers / pairs, ORANGE, 0.65, "exponentials");
    bar(at, y + 48, c.factors / pairs, ORANGE, 0.4, "sums, bf16");
}

int main(void)
{
    const msa_shape s = one_group(256, 4096, 16);
    tensors x = tensors_new(&s, SELECTION_RANDOM);
    const tally dense = tally_of("dense/amx", &x), index = tally_of("index/amx", &x);
    begin(720, 520,
          "Above, a product of two tiles; below, the clocks that parts of a core are at work for a pair, by "
          "counts");
    product();
    text(20, 328, "start", FAINT,
         "clocks for each visible pair, at least: computed from counts, not measured");
    parts(344, "dense", &dense, false);
    parts(434, "index", &index, true);
    tensors_free(&x);
    return finish();
}
