/* One row's running list: which block scores get in, and the score that they have to beat. */
#include "draw.h"

enum { B = 512, KEYS = 128, ENTRIES = 15 };

static double place(double score)
{
    return 300 - 95 * (score - 1.4);
}

int main(void)
{
    static float x[B * KEYS];
    float list[ENTRIES];
    int entered = 0;
    double expected = 0, step = 640.0 / B, from = 0;
    char words[80];
    noise(x, B * KEYS, 5);
    for (int a = 0; a < ENTRIES; a++)
        list[a] = -INFINITY;
    begin(720, 356, "A running list of the best 15 blocks of 512");
    for (int b = 0; b < B; b++) {
        float most = x[b * KEYS];
        int worst = 0;
        for (int j = 1; j < KEYS; j++)
            most = fmaxf(most, x[b * KEYS + j]);
        for (int a = 1; a < ENTRIES; a++)
            worst = list[a] < list[worst] ? a : worst;
        const double left = 50 + b * step, bar = (double)list[worst], y = place((double)most);
        const int in = most > list[worst];
        if (in)
            list[worst] = most;
        printf("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%s\" fill=\"%s\"/>\n", left, y, in ? "3.6" : "1.6",
               in ? BLUE : FAINT);
        float next = list[0];
        for (int a = 1; a < ENTRIES; a++)
            next = fminf(next, list[a]);
        if (bar > -INFINITY && (in || b == B - 1)) {
            line(from, place(bar), left, place(bar), ORANGE, 2);
            line(left, place(bar), left, place((double)next), ORANGE, 2);
        }
        if (in)
            from = left;
        entered += in;
        expected += b < ENTRIES ? 1 : (double)ENTRIES / (b + 1);
    }
    line(50, 310, 690, 310, FAINT, 1);
    for (int b = 0; b <= B; b += 128) {
        snprintf(words, sizeof words, "%d", b);
        text(50 + b * step, 330, "middle", FAINT, words);
    }
    text(370, 350, "middle", FAINT, "blocks in the order in which they stream past");
    snprintf(words, sizeof words, "large dots: %d of %d enter, %.0f expected", entered, B, expected);
    text(690, 24, "end", BLUE, words);
    text(50, 24, "start", ORANGE, "staircase: the score to beat");
    return finish();
}
