/* Who does what in one CTA of dense/hopper, on the engine's model clock. */
#include "../examples/engine.h"
#include "draw.h"

enum { LEFT = 130, RIGHT = 705, FROM = 6000, TO = 14400, COPIES = 60, RINGS = 7, STAGES = 3 };

static double at(double clock)
{
    return LEFT + (clock - FROM) / (TO - FROM) * (RIGHT - LEFT);
}

/* A bar of what happens from clock `from` to `to`, with a word in it where there is room. */
static void bar(double from, double to, double y, const char *fill, const char *word)
{
    const double x = at(from < FROM ? FROM : from), w = at(to > TO ? TO : to) - x;
    if (w <= 0)
        return;
    box(x, y, w, 24, fill, 1);
    line(x, y, x, y + 24, "#fff", 1.5);
    if (w > 8.0 * (double)strlen(word))
        text(x + w / 2, y + 17, "middle", "#fff", word);
}

/* The mbarriers that copies complete on, ascending: three of K's ring, three of V's, and that of Q. */
static int barriers(const simt_event *e, size_t n, uint32_t *object)
{
    int found = 0;
    for (size_t i = 0; i < n; i++) {
        int a = 0;
        while (a < found && object[a] != e[i].object)
            a++;
        if (e[i].did != SIMT_COPY || a < found || found == RINGS)
            continue;
        for (a = found++; a > 0 && object[a - 1] > e[i].object; a--)
            object[a] = object[a - 1];
        object[a] = e[i].object;
    }
    return found;
}

static void copies(const simt_event *e, size_t n)
{
    uint32_t object[RINGS];
    int seen[RINGS] = {0};
    if (barriers(e, n, object) != RINGS)
        return;
    for (size_t i = 0; i < n; i++)
        for (int a = 0; a < RINGS - 1; a++) /* two copies, of 64 channels each, are a tile */
            if (e[i].did == SIMT_COPY && e[i].object == object[a]) {
                char word[16];
                const int tile = seen[a]++ / 2 * STAGES + a % STAGES;
                snprintf(word, sizeof word, "%c%d", a < STAGES ? 'K' : 'V', tile);
                if (seen[a] % 2)
                    bar(e[i].served, e[i].served + 2 * e[i].busy, 46, a < STAGES ? GREEN : "#5b7083", word);
            }
}

/* A consumer's softmax on its own row, its products on that of the tensor cores: S 0, then S j and P V j-1 in
 * turn. */
static void consumer(const simt_event *e, size_t n, unsigned warp, double y, const char *fill)
{
    int products = 0, steps = 0;
    for (size_t i = 0; i < n; i++) {
        char word[16];
        if (e[i].warp == warp && e[i].did == SIMT_PRODUCT) {
            snprintf(word, sizeof word, products % 2 || !products ? "S%d" : "PV%d",
                     products % 2 ? (products + 1) / 2
                     : products   ? products / 2 - 1
                                  : 0);
            bar(e[i].end - e[i].busy, e[i].end, 216, fill, word);
            products++;
        }
        if (e[i].warp == warp && e[i].did == SIMT_WORK &&
            (i == 0 || e[i - 1].did != SIMT_WORK || e[i - 1].begin < e[i].begin)) {
            snprintf(word, sizeof word, "E%d", steps++);
            bar(e[i].begin, e[i].end, y, fill, word);
        }
    }
}

int main(void)
{
    const msa_shape s = {.n_q = 8,
                         .n_kv = 2048,
                         .n_heads = 16,
                         .n_kv_heads = 1,
                         .d_head = 128,
                         .d_index = 128,
                         .block = 128,
                         .topk = 8,
                         .n_seqs = 1};
    trial t = engine_inputs(&s, "random");
    size_t n;
    simt_record(0);
    engine_count(&t, "dense/hopper");
    const simt_event *e = simt_events(&n);
    begin(720, 316, "One CTA of dense/hopper on the model clock");
    for (int clock = FROM; clock <= TO; clock += 1000) {
        char word[16];
        line(at(clock), 40, at(clock), 262, PALE, 1);
        snprintf(word, sizeof word, "%d", clock);
        if (clock % 2000 == 0)
            text(at(clock), 282, "middle", FAINT, word);
    }
    copies(e, n);
    consumer(e, n, 4, 106, BLUE);
    consumer(e, n, 8, 156, ORANGE);
    text(LEFT - 10, 63, "end", INK, "copies (TMA)");
    text(LEFT - 10, 123, "end", BLUE, "consumer 0");
    text(LEFT - 10, 173, "end", ORANGE, "consumer 1");
    text(LEFT - 10, 233, "end", INK, "tensor cores");
    text((LEFT + RIGHT) / 2.0, 304, "middle", FAINT, "model clocks: nominal costs, not a measurement");
    text(LEFT, 24, "start", FAINT,
         "K, V: tiles of keys and values; S: scores; E: exponentials of S; PV: O += P V");
    trial_end(&t);
    return finish();
}
