/* The threads of a CTA as the engine runs them: each until it has to wait. */
#include "draw.h"

#include "../examples/index_text.h"

/* Who ran, turn after turn, and behind how many barriers, which its accesses so far tell. */
enum { TURNS = 3 * KEYS };
typedef struct record {
    int n, thread[TURNS], barriers[TURNS], accesses[KEYS];
} record;

static void see(void *context, const simt_access *a)
{
    record *r = context;
    const int thread = (int)a->thread, before = 2 * WIDTH + 1; /* a key's and the query's channels, and the score */
    const int so_far = r->accesses[thread]++, barriers = so_far < before ? 0 : 1 + (so_far - before) / 3;
    if (r->n > 0 && r->thread[r->n - 1] == thread && r->barriers[r->n - 1] == barriers)
        return;
    r->thread[r->n] = thread;
    r->barriers[r->n++] = barriers;
}

static void panel(const msa_device *engine, const index_text *x, int order, double left, const char *title)
{
    const double top = 60, high = 2.2, wide = 1.15;
    record r = {0};
    simt_watch(see, &r);
    if (attempt(engine, x, COPIED, order, 0, 1))
        exit(1);
    simt_watch(NULL, NULL);
    text(left, 24, "start", INK, title);
    box(left, top, wide * r.n, high * KEYS, PALE, 0.5);
    for (int i = 0; i < r.n; i++) {
        if (i > 0 && r.barriers[i] != r.barriers[i - 1])
            line(left + wide * i, top - 8, left + wide * i, top + high * KEYS, FAINT, 1);
        box(left + wide * i, top + high * r.thread[i], 3, high, r.barriers[i] % 2 ? ORANGE : BLUE, 1);
    }
    text(left - 8, top + 12, "end", FAINT, "0");
    text(left - 8, top + high * KEYS, "end", FAINT, "127");
    text(left + wide * r.n / 2, top + high * KEYS + 24, "middle", FAINT, "turns of threads, one after the other");
    text(left + wide * KEYS, top - 14, "middle", INK, "__syncthreads");
}

int main(void)
{
    engine_needed();
    const msa_device *engine = table_device("simt");
    index_text x = begin_text(engine, 1);
    begin(720, 370, "Threads of a CTA on the engine, in two orders");
    panel(engine, &x, 0, 50, "threads forward");
    panel(engine, &x, 2, 410, "threads at random");
    end_text(engine, &x);
    return finish();
}
