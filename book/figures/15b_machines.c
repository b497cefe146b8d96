/* Bytes that a rank sends for one layer at 2^20 keys, by the length of the chunk: queries or keys on their way. */
#include <parallel/traffic.h>

#include "draw.h"

static const msa_shape m3 = {.n_heads = 64, .n_kv_heads = 4, .d_head = 128, .d_index = 128, .block = 128, .topk = 16};

static double x_of(double chunk)
{
    return 80 + 22.5 * log2(chunk);
}

static double y_of(double bytes)
{
    return 350 - 40 * (log10(bytes) - 3);
}

static double mean(const traffic_call *c, bool queries)
{
    double bytes[TRAFFIC_N_KINDS];
    if (queries)
        traffic_pass_q(c, traffic_expected_pairs(c), bytes);
    else
        traffic_pass_kv(c, bytes);
    return traffic_sum(bytes) / c->ranks;
}

/* Both are lines: one rises with the chunk, the other is flat; a dot where they cross. */
static void ways(int ranks, bool dense, const char *color, const char *name, double down)
{
    traffic_call c = {&m3, ranks, 1, 1 << 20, 2, 2, dense, 0};
    const double one = mean(&c, true), keys = mean(&c, false), crossing = traffic_crossing(&c);
    line(x_of(1), y_of(one), x_of(1 << 20), y_of(one * (1 << 20)), color, 2);
    line(x_of(1), y_of(keys), x_of(1 << 20), y_of(keys), color, 1);
    printf("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"5\" fill=\"%s\"/>\n", x_of(crossing), y_of(keys), color);
    text(x_of(1 << 20) + 8, y_of(one * (1 << 20)) + 5 + down, "start", color, name);
}

int main(void)
{
    begin(760, 410, "Bytes that a rank sends for one layer at a million keys");
    text(80, 24, "start", FAINT, "bytes that a rank sends for one layer, 2^20 keys, by the number of queries");
    for (int e = 0; e <= 20; e += 4) {
        char name[16];
        snprintf(name, sizeof name, e < 10 ? "%d" : e < 20 ? "%dK" : "1M", 1 << (e < 10 ? e : e - 10));
        line(x_of(1 << e), y_of(1e3), x_of(1 << e), y_of(3e10), PALE, 1);
        text(x_of(1 << e), 372, "middle", INK, name);
    }
    static const char *const unit[] = {"1 kB", "10 kB", "100 kB", "1 MB", "10 MB", "100 MB", "1 GB", "10 GB"};
    for (int e = 0; e < 8; e++) {
        line(80, y_of(pow(10, e + 3)), x_of(1 << 20), y_of(pow(10, e + 3)), e ? PALE : FAINT, 1);
        text(72, y_of(pow(10, e + 3)) + 5, "end", FAINT, unit[e]);
    }
    ways(64, true, INK, "dense, 64 ranks", -8);
    ways(8, false, BLUE, "MSA, 8", 8);
    ways(64, false, GREEN, "MSA, 64", 8);
    ways(1024, false, ORANGE, "MSA, 1024", 5);
    text(100, y_of(3.6e9), "start", FAINT, "keys travel: as many bytes for every chunk");
    text(100, y_of(6e6), "start", FAINT, "queries travel");
    text(305, 396, "middle", FAINT, "queries of the chunk");
    return finish();
}
