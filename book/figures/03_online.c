/* The running maximum and the running sum of one row. */
#include "draw.h"

int main(void)
{
    enum { N = 48 };
    float x[N];
    noise(x, N, 9);
    begin(720, 330, "Running maximum and sum of an online softmax");
    double max = -INFINITY, sum = 0, step = 660.0 / N, lx = 0, ly = 0, my = 0;
    for (int j = 0; j < N; j++) {
        double before = max, left = 40 + j * step, center = left + step / 2;
        if ((double)x[j] > max) {
            sum *= exp(max - (double)x[j]);
            max = (double)x[j];
        }
        sum += exp((double)x[j] - max);
        double y = 120 - 30 * (double)x[j], m = 120 - 30 * max, l = 300 - 9 * sum;
        printf("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.2\" fill=\"%s\"/>\n", center, y, max > before ? ORANGE : FAINT);
        if (max > before) {
            line(left, 20, left, 300, PALE, 2);
            if (j)
                line(left, my, left, m, ORANGE, 2);
        }
        line(left, m, left + step, m, ORANGE, 2);
        if (j)
            line(lx, ly, center, l, BLUE, 2);
        lx = center, ly = l, my = m;
    }
    line(40, 300, 700, 300, FAINT, 1);
    text(696, my - 8, "end", ORANGE, "running maximum m");
    text(696, ly - 10, "end", BLUE, "running sum l");
    text(40, 322, "start", FAINT, "keys in the order they arrive; a pale line: a new maximum, l is rescaled");
    return finish();
}
