/* What one step of MSA reads, in percent of dense attention's bytes. */
#include "draw.h"

enum { LENGTHS = 6, WIDTH = 62 };

static double y_of(double percent)
{
    return 330 - 13 * percent;
}

/* One layer of a stack; returns its top. */
static double layer(double x, double from, double height, const char *fill)
{
    box(x, y_of(from + height), WIDTH, 13 * height, fill, 1);
    return from + height;
}

int main(void)
{
    msa_shape s = {.n_heads = 64, .n_kv_heads = 4, .d_head = 128, .d_index = 128, .block = 128, .topk = 16};
    begin(720, 390, "Bytes of one step of MSA as a part of dense attention's");
    text(60, 24, "start", FAINT, "bytes of one step, in percent of dense attention's at the same length");
    for (int percent = 0; percent <= 20; percent += 5) {
        char name[16];
        snprintf(name, sizeof name, "%d %%", percent);
        text(52, y_of(percent) + 5, "end", FAINT, name);
        line(60, y_of(percent), 550, y_of(percent), percent ? PALE : FAINT, 1);
    }
    double top = 0, end = 0;
    for (int a = 0; a < LENGTHS; a++) {
        double n = (double)(1 << (15 + a)), x = 72 + 80.0 * a;
        msa_cost_row row;
        must(msa_cost(&s, (int64_t)n, &row));
        double keys = 100 * 2 * s.d_index * n / row.bytes_gqa, all = 100 * row.bytes_msa / row.bytes_gqa;
        top = layer(x, 0, keys, ORANGE);
        end = layer(x, top, all - keys, BLUE);
        char name[16];
        snprintf(name, sizeof name, a < 5 ? "%dK" : "1M", 32 << a);
        text(x + WIDTH / 2, 352, "middle", INK, name);
        snprintf(name, sizeof name, "%.1f %%", all);
        text(x + WIDTH / 2, y_of(end) - 8, "middle", INK, name);
    }
    line(545, y_of(top / 2), 560, y_of(top / 2), ORANGE, 2);
    text(566, y_of(top / 2) - 4, "start", ORANGE, "index keys:");
    text(566, y_of(top / 2) + 14, "start", ORANGE, "1/8 at every length");
    line(545, y_of(end) + 1, 560, y_of(end) - 20, BLUE, 2);
    text(566, y_of(end) - 20, "start", BLUE, "16 blocks of keys");
    text(566, y_of(end) - 2, "start", BLUE, "and values: 4 MiB");
    text(305, 378, "middle", FAINT, "tokens in the cache");
    return finish();
}
