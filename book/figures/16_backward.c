/* Who writes to which rows of dQ and dK, in two loop orders. */
#include "draw.h"

#include "../examples/gradients.h"

enum { CLEARS = 3, CELL = 8, HIGH = 9 }; /* the first launches write zeros; size of a cell */

static bool wrote(const written *w, int array, int row, int cta)
{
    bool any = false;
    for (int launch = CLEARS; launch < LAUNCHES; launch++)
        any |= w->by[array][launch][row][cta];
    return any;
}

/* A map of CTAs, downwards, and rows; `each` rows of the array are one column. */
static void map(const written *w, int array, int rows, int each, int ctas, double left, double top,
                const char *name)
{
    int most = 0;
    char words[48];
    text(left, top - 10, "start", INK, name);
    box(left, top, CELL * rows / each, HIGH * ctas, PALE, 0.6);
    for (int row = 0; row < rows; row += each) {
        int n = 0;
        for (int cta = 0; cta < ctas; cta++)
            n += wrote(w, array, row, cta);
        most = n > most ? n : most;
        for (int cta = 0; cta < ctas; cta++)
            if (wrote(w, array, row, cta))
                box(left + CELL * row / each + 0.5, top + HIGH * cta + 0.5, CELL - 1, HIGH - 1,
                    n > 1 ? ORANGE : BLUE, 1);
    }
    snprintf(words, sizeof words, most > 1 ? "up to %d CTAs a row" : "%d CTA a row", most);
    text(left, top + HIGH * ctas + 20, "start", most > 1 ? ORANGE : BLUE, words);
}

static void panel(const trial *t, const char *kernel, double left, const char *title)
{
    const msa_shape *s = &t->shape;
    const double top = 76;
    written *w = watch_gradient(t, kernel);
    int ctas = 0;
    for (int row = 0; row < s->n_kv; row += s->block)
        for (int cta = 0; cta < CTAS; cta++)
            if (wrote(w, TO_DK, row, cta) && cta >= ctas)
                ctas = cta + 1;
    text(left, 26, "start", INK, title);
    map(w, TO_DQ, (int)s->n_q, 1, ctas, left, top, "rows of dQ");
    map(w, TO_DK, (int)s->n_kv, s->block, ctas, left + 150, top, "blocks of dK, dV");
    text(left - 8, top + 11, "end", FAINT, "CTA 0");
    char last[16];
    snprintf(last, sizeof last, "%d", ctas - 1);
    text(left - 8, top + HIGH * ctas, "end", FAINT, last);
    free(w);
}

int main(void)
{
    msa_shape s = small_shape();
    trial t = engine_inputs(&s, "random");
    begin(720, 260, "Which CTAs write to which rows of the gradients");
    panel(&t, "backward/q_outer", 64, "queries outside: a CTA for each query");
    panel(&t, "backward/kv_outer", 420, "blocks outside: a CTA for each block");
    trial_end(&t);
    return finish();
}
