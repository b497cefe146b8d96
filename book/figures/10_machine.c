/* The roofs of two GPUs, and the stages of MSA under them. */
#include "../examples/stages.h"
#include "draw.h"

static double x_of(double intensity)
{
    return 70 + 37 * (log2(intensity) - 1);
}
static double y_of(double rate)
{
    return 345 - 105 * (log10(rate) - 12.5);
}
static double attainable(const roofline_gpu *g, double intensity)
{
    return fmin(g->flops, g->bytes * intensity);
}

static void roof(const roofline_gpu *g, const char *colour, double width)
{
    const double ridge = g->flops / g->bytes;
    line(x_of(2), y_of(attainable(g, 2)), x_of(ridge), y_of(g->flops), colour, width);
    line(x_of(ridge), y_of(g->flops), x_of(1 << 17), y_of(g->flops), colour, width);
}

/* A dot on the roof, and its name at the end of a leader. */
static void point(const roofline_gpu *g, const stage_point *p, const char *name, double dx, double dy, const char *anchor, const char *colour)
{
    const double intensity = p->operations / p->bytes, x = x_of(intensity), y = y_of(attainable(g, intensity));
    char words[64];
    snprintf(words, sizeof words, "%s: %.0f", name, intensity);
    line(x, y, x + dx, y + dy, colour, 1);
    printf("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"5\" fill=\"%s\"/>\n", x, y, colour);
    const double beside = strcmp(anchor, "start") == 0 ? 4 : strcmp(anchor, "end") == 0 ? -4 : 0;
    text(x + dx + beside, y + dy + (dy < 0 ? -4 : beside != 0 ? 5 : 15), anchor, colour, words);
}

int main(void)
{
    static const struct {
        const char *name, *anchor, *colour;
        double dx, dy;
    } label[STAGES] = {{"dense prefill", "end", INK, 22, -14},
                       {"index, scores written", "middle", ORANGE, 0, -38},
                       {"index, only ids written", "end", ORANGE, 0, 58},
                       {"sparse, read per query", "start", BLUE, 22, 28},
                       {"sparse, gathered per block", "start", BLUE, 22, 28},
                       {"sparse, arrays once", "middle", BLUE, 8, 16},
                       {"decode, dense", "start", INK, 22, 4},
                       {"decode, MSA", "start", GREEN, 22, 4}};
    const roofline_gpu *h800 = &roofline_gpus[0], *h200 = &roofline_gpus[1];
    stage_point p[STAGES];
    stages_of(p);
    begin(720, 410, "Roofline of H800 and H200 with the stages of MSA, computed");
    for (int e = 1; e <= 16; e += 3) {
        char name[16];
        snprintf(name, sizeof name, "%d", 1 << e);
        line(x_of(1 << e), 40, x_of(1 << e), 345, PALE, 1);
        text(x_of(1 << e), 366, "middle", FAINT, name);
    }
    static const char *const decade[] = {"10^13", "10^14", "10^15"};
    for (int e = 13; e <= 15; e++) {
        line(x_of(2) - 6, y_of(pow(10, e)), x_of(1 << 17), y_of(pow(10, e)), PALE, 1);
        text(x_of(2) - 10, y_of(pow(10, e)) + 5, "end", FAINT, decade[e - 13]);
    }
    roof(h200, FAINT, 2);
    roof(h800, INK, 2.5);
    text(x_of(8) - 10, y_of(attainable(h200, 8)) - 4, "end", FAINT, "H200");
    text(x_of(2) + 14, y_of(attainable(h800, 2)) + 5, "start", INK, "H800, H100");
    const double ridge = x_of(h800->flops / h800->bytes);
    line(ridge, y_of(h800->flops), ridge, y_of(h800->flops) + 16, INK, 1);
    line(ridge, 329, ridge, 345, INK, 1);
    text(ridge, 366, "middle", INK, "295");
    for (int i = 0; i < STAGES; i++)
        point(h800, &p[i], label[i].name, label[i].dx, label[i].dy, label[i].anchor, label[i].colour);
    text(20, 24, "start", FAINT, "operations a second that the H800 allows: computed, not measured");
    text(x_of(1 << 17), 396, "end", FAINT, "operations for each byte of memory traffic");
    return finish();
}
