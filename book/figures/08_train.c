/* Loss and recall of three trainings of the tiny selector. */
#include "../examples/tiny_selector.h"
#include "draw.h"

enum { STEPS = 240, WARMUP = 80, RUNS = 3, WIDTH = 270, HEIGHT = 230, TOP = 70, LEFT = 60, SECOND = 410 };
static const char *const color[RUNS] = {BLUE, ORANGE, INK}, *const dash[RUNS] = {"", "7 4", "2 3"};

static void curve(const double *y, double x0, int run)
{
    printf("<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2.5\" stroke-dasharray=\"%s\" points=\"", color[run], dash[run]);
    for (int step = 0; step <= STEPS; step += 4)
        printf("%.1f,%.1f ", x0 + (double)WIDTH * step / STEPS, TOP + HEIGHT * (1 - y[step]));
    printf("\"/>\n");
}

/* A level at y in [0,1] of the panel. */
static void level(double x0, double y, const char *name)
{
    line(x0, TOP + HEIGHT * (1 - y), x0 + WIDTH, TOP + HEIGHT * (1 - y), PALE, 1);
    text(x0 - 8, TOP + HEIGHT * (1 - y) + 5, "end", INK, name);
}

static double log_height(double loss)
{
    return log(loss / 0.03125) / log(32);
}

int main(void)
{
    static tiny t;
    static double loss[RUNS][STEPS + 1], recall[RUNS][STEPS + 1];
    static const int warmup[RUNS] = {STEPS, WARMUP, 0};
    static const char *const name[RUNS] = {"all visible keys", "80 steps so, then chosen blocks", "chosen blocks"};
    for (int run = 0; run < RUNS; run++) {
        tiny_init(&t);
        for (int step = 0; step <= STEPS; step++) {
            tiny_select(&t);
            loss[run][step] = log_height(tiny_loss(&t, NULL));
            recall[run][step] = (tiny_recall(&t).block_recall - 0.4) / 0.5;
            tiny_step(&t, step < warmup[run] ? NULL : t.ids, 0.5f);
        }
        free(t.work);
    }

    begin(720, 375, "A tiny selector learns, with and without warmup");
    text(LEFT, 20, "start", INK, "the loss, on all visible keys");
    text(SECOND, 20, "start", INK, "block recall");
    static const char *const losses[] = {"0.03", "0.06", "0.12", "0.25", "0.5", "1"};
    for (int a = 0; a < 6; a++)
        level(LEFT, a / 5.0, losses[a]);
    static const char *const recalls[] = {"0.4", "0.5", "0.6", "0.7", "0.8", "0.9"};
    for (int a = 0; a < 6; a++)
        level(SECOND, a / 5.0, recalls[a]);
    for (int panel = 0; panel < 2; panel++) {
        double x0 = panel ? SECOND : LEFT;
        for (int step = 0; step <= STEPS; step += WARMUP) {
            char number[8];
            snprintf(number, sizeof number, "%d", step);
            text(x0 + (double)WIDTH * step / STEPS, TOP + HEIGHT + 22, "middle", INK, number);
        }
        for (int run = 0; run < RUNS; run++)
            curve(panel ? recall[run] : loss[run], x0, run);
    }
    for (int run = 0; run < RUNS; run++) {
        double x = LEFT + (run == 1 ? 190 : run == 2 ? 485 : 0);
        printf("<line x1=\"%.1f\" y1=\"45\" x2=\"%.1f\" y2=\"45\" stroke=\"%s\" stroke-width=\"2.5\" stroke-dasharray=\"%s\"/>\n", x, x + 32, color[run],
               dash[run]);
        text(x + 40, 50, "start", color[run], name[run]);
    }
    text(LEFT + WIDTH / 2.0, 350, "middle", INK, "step");
    text(SECOND + WIDTH / 2.0, 350, "middle", INK, "step");
    return finish();
}
