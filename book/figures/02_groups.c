/* Which query head reads which key-value head. */
#include "draw.h"

int main(void)
{
    static const int kv_heads[3] = {8, 2, 1};
    static const char *const name[3] = {"multi-head: 8 of 8", "grouped: 2 for 8, G = 4", "multi-query: 1 for 8"};
    begin(720, 230, "Query heads and the key-value heads they share");
    for (int m = 0; m < 3; m++) {
        double x = 20 + 240.0 * m;
        text(x + 100, 28, "middle", INK, name[m]);
        for (int h = 0; h < 8; h++) {
            int r = h / (8 / kv_heads[m]);
            double kx = x + 200.0 * (r + 0.5) / kv_heads[m];
            line(x + 12.5 + 25 * h, 82, kx, 150, FAINT, 1.5);
            box(x + 3 + 25 * h, 60, 19, 22, BLUE, r % 2 ? 0.55 : 0.9);
        }
        for (int r = 0; r < kv_heads[m]; r++)
            box(x + 200.0 * (r + 0.5) / kv_heads[m] - 9.5, 150, 19, 22, ORANGE, r % 2 ? 0.55 : 0.9);
    }
    text(360, 52, "middle", BLUE, "query heads");
    text(360, 200, "middle", ORANGE, "key-value heads: these are what the cache holds");
    return finish();
}
