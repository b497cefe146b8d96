/* The kernels of chapter 17's program: how far cosine says they are off, and how much of their budget they use. */
#include "../examples/mistakes.h"
#include "draw.h"

enum { LEFT = 74, RIGHT = 700, TOP = 40, BOTTOM = 400 };

/* 1 - cosine from 1e-10 to 1, budget from 0.1 to 1000. */
static double x_of(double off)
{
    return LEFT + (log10(off) + 10) / 10 * (RIGHT - LEFT);
}

static double y_of(double used)
{
    return BOTTOM - (log10(used) + 1) / 4 * (BOTTOM - TOP);
}

static void axes(void)
{
    box(LEFT, TOP, x_of(1e-3) - LEFT, y_of(1) - TOP, PALE, 1);
    for (int e = -10; e <= 0; e += 2) {
        char name[16];
        snprintf(name, sizeof name, e ? "1e%d" : "1", e);
        text(x_of(pow(10, e)), BOTTOM + 22, "middle", FAINT, name);
    }
    for (int e = -1; e <= 3; e++) {
        char name[16];
        snprintf(name, sizeof name, "%g", pow(10, e));
        text(LEFT - 8, y_of(pow(10, e)) + 5, "end", FAINT, name);
    }
    line(LEFT, BOTTOM, RIGHT, BOTTOM, FAINT, 1);
    line(LEFT, TOP, LEFT, BOTTOM, FAINT, 1);
    line(LEFT, y_of(1), RIGHT, y_of(1), INK, 1.5);
    line(x_of(1e-3), TOP, x_of(1e-3), BOTTOM, INK, 1.5);
    text(RIGHT, y_of(1) + 18, "end", INK, "budget");
    text(x_of(1e-3) + 6, BOTTOM - 10, "start", INK, "cosine 0.999");
    text(LEFT + 8, TOP + 20, "start", INK, "wrong, and accepted by cosine");
    text((LEFT + RIGHT) / 2.0, BOTTOM + 46, "middle", FAINT, "1 - cosine of the whole output");
    text(LEFT - 8, 24, "start", FAINT, "largest share of an error budget that was used");
}

/* Where a label stands beside its point; those of points that lie close are one, at the first of them. */
static const struct label {
    double dx, dy;
    const char *anchor, *words;
} labels[2][N_MISTAKES] = {{{10, 5, "start", "no mistake"},
                            {3, -14, "end", "lost item, rescale, mask"},
                            {0, 0, "", NULL},
                            {30, 24, "end", "sum without a tile"},
                            {0, 0, "", NULL},
                            {22, -12, "end", "mean of V"}},
                           {{10, -12, "start", "no mistake, rescale"},
                            {-10, 5, "end", "lost item"},
                            {0, 0, "", NULL},
                            {30, 24, "end", "sum without a tile"},
                            {-10, 1, "end", "mask"},
                            {-10, 5, "end", "mean of V"}}};

static void points(bool flat)
{
    static trial_case t;
    static workspace w;
    static float o[SIZE];
    make_case(&t, flat);
    for (int m = NO_MISTAKE; m < N_MISTAKES; m++) {
        kernel(&t.in, t.ids, (mistake)m, &w, o);
        const double x = x_of(one_minus_cosine(o, t.exact, SIZE)), y = y_of(judge(&t, o, false).used);
        const struct label *l = &labels[flat][m];
        if (m == NO_MISTAKE && !flat)
            line(x, TOP, x, y, FAINT, 1);
        if (flat)
            box(x - 5, y - 5, 10, 10, ORANGE, 1);
        else
            printf("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"5.5\" fill=\"%s\"/>\n", x, y, BLUE);
        if (l->words)
            text(x + l->dx, y + l->dy, l->anchor, flat ? ORANGE : BLUE, l->words);
    }
    inputs_free(&t.in);
}

int main(void)
{
    begin(720, 490, "Kernels with mistakes: cosine and error budget");
    axes();
    points(false);
    points(true);
    printf("<circle cx=\"%d\" cy=\"475\" r=\"5.5\" fill=\"%s\"/>\n", LEFT + 150, BLUE);
    text(LEFT + 162, 480, "start", BLUE, "normal inputs");
    box(LEFT + 320, 470, 10, 10, ORANGE, 1);
    text(LEFT + 338, 480, "start", ORANGE, "inputs in [0.5, 1]");
    return finish();
}
