/* The loss curves that the shipped model left behind. */
#include "draw.h"

enum { STEPS = 3000, MEAN = 25, WARMUP = 1000, WIDTH = 265, HEIGHT = 230, TOP = 60, LEFT = 60, SECOND = 425 };

/* The selector's loss and the held-out bits per byte (0: not measured) of each step. */
static void read_curve(const char *path, double *kl, double *bits)
{
    char row[128], *field;
    FILE *f = fopen(path, "r");
    if (!f) {
        fprintf(stderr, "%s: cannot read\n", path);
        exit(1);
    }
    fgets(row, sizeof row, f); /* the names of the columns */
    for (int step = 1; fgets(row, sizeof row, f) && step <= STEPS; step++) {
        strtod(row, &field);       /* step */
        strtod(field + 1, &field); /* bits per byte of the step's own windows */
        kl[step] = strtod(field + 1, &field);
        strtod(field + 1, &field); /* learning rate */
        bits[step] = *field == ',' ? strtod(field + 1, NULL) : 0;
    }
    fclose(f);
}

static double across(double x0, int step)
{
    return x0 + (double)WIDTH * step / STEPS;
}

static double up(double y)
{
    return TOP + HEIGHT * (1 - y);
}

int main(void)
{
    static double kl[STEPS + 1], bits[STEPS + 1], none[STEPS + 1], twin[STEPS + 1];
    read_curve("data/kjv-msa.csv", kl, bits);
    read_curve("data/kjv-gqa.csv", none, twin);
    begin(720, 355, "The training of the shipped model");
    text(LEFT, 22, "start", INK, "selector's loss, mean of the layers, in nats");
    text(SECOND, 22, "start", INK, "bits per byte, MSA minus twin");
    for (int panel = 0; panel < 2; panel++) {
        double x0 = panel ? SECOND : LEFT;
        for (int a = 0; a <= 6; a++) {
            char name[16];
            snprintf(name, sizeof name, panel ? "%+.2f" : "%.1f", panel ? (a - 2) * 0.01 : a * 0.1);
            line(x0, up(a / 6.0), x0 + WIDTH, up(a / 6.0), panel && a == 2 ? FAINT : PALE, 1);
            text(x0 - 8, up(a / 6.0) + 5, "end", INK, panel && a == 2 ? "0" : name);
        }
        for (int step = 0; step <= STEPS; step += 1000) {
            char number[8];
            snprintf(number, sizeof number, "%d", step);
            text(across(x0, step), up(0) + 22, "middle", INK, number);
        }
        line(across(x0, WARMUP), up(1), across(x0, WARMUP), up(0), ORANGE, 1.5);
        text(across(x0, WARMUP) + 6, up(1) + 16, "start", ORANGE, "chosen blocks from here");
        text(x0 + WIDTH / 2.0, up(0) + 48, "middle", INK, "step");
    }
    printf("<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2.5\" points=\"", BLUE);
    for (int step = MEAN; step <= STEPS; step += MEAN) {
        double mean = 0;
        for (int a = step - MEAN + 1; a <= step; a++)
            mean += kl[a] / MEAN;
        printf("%.1f,%.1f ", across(LEFT, step - MEAN / 2), up(mean / 0.6));
    }
    printf("\"/>\n");
    for (int step = 1; step <= STEPS; step++)
        if (bits[step] > 0)
            printf("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4.5\" fill=\"%s\"/>\n", across(SECOND, step), up((bits[step] - twin[step] + 0.02) / 0.06), BLUE);
    return finish();
}
