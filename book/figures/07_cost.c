/* Operations of a prefill, dense and sparse. */
#include "draw.h"

int main(void)
{
    msa_shape s = {.n_heads = 64, .n_kv_heads = 4, .d_head = 128, .d_index = 128, .block = 128, .topk = 16};
    begin(720, 400, "Operations of one layer's attention in a causal prefill");
    double x0 = 90, y0 = 350, sx = 52, sy = 12, px = 0, pg = 0, pm = 0, pi = 0, ps = 0;
    for (int e = 11; e <= 20; e++) {
        msa_cost_row row;
        must(msa_cost(&s, 1L << e, &row));
        double x = x0 + (e - 11) * sx, low = 31;
        double g = y0 - sy * (log2(row.flop_gqa) - low), m = y0 - sy * (log2(row.flop_msa) - low);
        double ix = y0 - sy * (log2(row.flop_msa * row.index_share) - low), sp = y0 - sy * (log2(row.flop_msa * (1 - row.index_share)) - low);
        line(x, 40, x, y0, PALE, 1);
        if (e > 11) {
            line(px, pg, x, g, INK, 2.5);
            line(px, pi, x, ix, ORANGE, 1.5);
            line(px, ps, x, sp, BLUE, 1.5);
            line(px, pm, x, m, GREEN, 2.5);
        }
        px = x, pg = g, pm = m, pi = ix, ps = sp;
        char name[16];
        snprintf(name, sizeof name, e < 20 ? "%ldK" : "1M", 1L << (e - 10));
        text(x, y0 + 22, "middle", INK, name);
        if (e == 20) {
            text(x + 10, g + 5, "start", INK, "dense GQA");
            text(x + 10, m, "start", GREEN, "MSA");
            text(x + 10, ix + 14, "start", ORANGE, "index");
            text(x + 10, sp + 5, "start", BLUE, "16 blocks");
        }
    }
    for (int e = 36; e <= 54; e += 6) {
        char name[24];
        snprintf(name, sizeof name, "2^%d", e);
        text(x0 - 12, y0 - sy * (e - 31) + 5, "end", FAINT, name);
        line(x0 - 6, y0 - sy * (e - 31), x0, y0 - sy * (e - 31), FAINT, 1);
    }
    text(x0, 24, "start", FAINT, "operations of one layer, by tokens of the prefill");
    line(x0, y0, 570, y0, FAINT, 1);
    return finish();
}
