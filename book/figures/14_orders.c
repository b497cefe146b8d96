/* Bytes and useful products of three loop orders, for four kinds of selections at the sizes of M3. */
#include "draw.h"

#include "../examples/orders.h"

static const char *const order_name[ORDERS] = {"Q-outer", "union", "KV-outer"};
static const char *const colour[ORDERS] = {FAINT, BLUE, ORANGE};

/* A bar, and its number at `at`. */
static void bar(double x, double y, double width, const char *fill, double at, const char *format,
                double value)
{
    char number[24];
    snprintf(number, sizeof number, format, value);
    box(x, y, width, 18, fill, 1);
    text(at, y + 14, "start", INK, number);
}

static void rows_of(selection_kind kind, double y)
{
    msa_shape s = m3_chunk();
    int32_t *ids = room(s.n_kv_heads * s.n_q * s.topk, sizeof *ids);
    work of[ORDERS];
    selection_draw(&s, kind, 1, ids);
    count_orders(&s, ids, of);
    text(20, y + 34, "start", INK, selection_name(kind));
    for (int order = 0; order < ORDERS; order++, y += 22) {
        text(172, y + 14, "end", INK, order_name[order]);
        double gb = of[order].bytes / 1e9, share = useful_fma(&s, ids) / of[order].fma;
        bar(180, y, 3.2 * gb, colour[order], 186 + 3.2 * gb, "%.1f", gb);
        box(480, y, 170, 18, PALE, 1);
        bar(480, y, 170 * share, colour[order], 656, "%.0f %%", 100 * share);
    }
    free(ids);
}

int main(void)
{
    begin(720, 400, "Bytes and useful products of three loop orders");
    text(180, 26, "start", INK, "GB read and written");
    text(480, 26, "start", INK, "useful part of the products");
    for (int kind = 0; kind < SELECTION_N; kind++) {
        if (kind)
            line(20, 40 + 88 * kind, 700, 40 + 88 * kind, PALE, 2);
        rows_of((selection_kind)kind, 52 + 88 * kind);
    }
    return finish();
}
