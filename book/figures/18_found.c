/* Held-out text: every model that was trained, beside the mean of msa, and beside msa with the same seed. */
#include "../examples/experiments.h"
#include "draw.h"

enum { LEFT = 100, WIDTH = 280, GAP = 56, TOP = 72, ROW = 24 };

static double low, high; /* of both axes: bits per byte more than msa */

static double x_of(int panel, double difference)
{
    return LEFT + panel * (WIDTH + GAP) + (difference - low) / (high - low) * WIDTH;
}

static void axes(const table *t, int c, double mean, int bottom)
{
    const double step = 0.05;
    for (int r = 0; r < t->rows; r++)
        low = fmin(low, t->value[r][c] - mean), high = fmax(high, t->value[r][c] - mean);
    low = step * floor(low / step), high = step * ceil(high / step);
    for (int panel = 0; panel < 2; panel++)
        for (double d = low; d < high + step / 2; d += step) {
            char name[16];
            snprintf(name, sizeof name, fabs(d) < step / 2 ? "0" : "%+.2f", d);
            line(x_of(panel, d), TOP, x_of(panel, d), bottom, "#dfe3e8", 1);
            text(x_of(panel, d), bottom + 20, "middle", FAINT, name);
        }
    text(x_of(0, low), TOP - 40, "start", INK, "minus the mean of msa");
    text(x_of(0, low), TOP - 20, "start", FAINT, "band: luck of means of three seeds");
    text(x_of(1, low), TOP - 40, "start", INK, "minus msa with the same seed");
    text(x_of(1, low), TOP - 20, "start", FAINT, "bar: the mean, with its 95 % interval");
    text(LEFT + WIDTH + GAP / 2.0, bottom + 46, "middle", FAINT, "bits per byte of held-out text");
}

static void dot(double x, double y, const char *fill)
{
    printf("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\" fill-opacity=\"0.7\"/>\n", x, y, fill);
}

static void arm(const table *t, int c, double mean, const char *name, double luck, int y)
{
    const summary s = sum_up(t, name, "bits_per_byte");
    const pairs p = pair_up(t, name, "msa", "bits_per_byte");
    const int seen = strcmp(name, "msa") != 0 && fabs(p.mean) > p.half;
    text(LEFT - 10, y + 5, "end", seen ? INK : FAINT, name);
    for (int r = 0; r < t->rows; r++)
        if (strcmp(t->arm[r], name) == 0)
            dot(x_of(0, t->value[r][c] - mean), y, fabs(s.mean - mean) > luck ? BLUE : FAINT);
    if (strcmp(name, "msa") == 0)
        return;
    box(x_of(1, fmax(p.mean - p.half, low)), y - 4,
        x_of(1, fmin(p.mean + p.half, high)) - x_of(1, fmax(p.mean - p.half, low)), 8, seen ? BLUE : FAINT,
        0.25);
    line(x_of(1, p.mean), y - 8, x_of(1, p.mean), y + 8, seen ? INK : FAINT, 2);
    for (int i = 0; i < p.n; i++)
        dot(x_of(1, p.difference[i]), y, seen ? BLUE : FAINT);
}

int main(void)
{
    static table t;
    int arms = 0, y = TOP + ROW / 2;
    read_table("data/experiments/text.csv", &t);
    for (int r = 0; r < t.rows; r++)
        arms += is_first(&t, r);
    const int c = column_of(&t, "bits_per_byte"), bottom = TOP + ROW * arms;
    const double mean = sum_up(&t, "msa", "bits_per_byte").mean,
                 luck = visible(seed_deviation(&t, "bits_per_byte"), 3);
    begin(LEFT + 2 * WIDTH + GAP + 24, bottom + 60,
          "Held-out text: every model beside msa, with and without its seed");
    axes(&t, c, mean, bottom);
    box(x_of(0, -luck), TOP, x_of(0, luck) - x_of(0, -luck), bottom - TOP, PALE, 1);
    line(x_of(1, 0), TOP, x_of(1, 0), bottom, INK, 1);
    for (int r = 0; r < t.rows; r++)
        if (is_first(&t, r)) {
            arm(&t, c, mean, t.arm[r], luck, y);
            y += ROW;
        }
    return finish();
}
