/* From events of warps to the rows of a picture. */
#include "timeline_lanes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TOGETHER 128 /* clocks within which warps do the same, and copies belong together */

/* ---- Which events --------------------------------------------------------------------------------- */

static uint64_t best_launch(const simt_event *event, size_t n)
{
    uint64_t best = 0;
    double most = -1;
    for (size_t i = 0; i < n;) {
        const uint64_t launch = event[i].launch;
        double weight = 0; /* products count, and if nobody has any, everything else */
        for (; i < n && event[i].launch == launch; i++)
            weight += event[i].did == SIMT_PRODUCT ? 1e9 : 1;
        if (weight > most)
            most = weight, best = launch;
    }
    return best;
}

/* ---- Actors --------------------------------------------------------------------------------------- */

static const char *role_of(const simt_event *from, const simt_event *to)
{
    const char *role = "";
    for (const simt_event *e = from; e < to; e++)
        if (e->role[0])
            role = e->role;
    return role;
}

static bool is_shown(const simt_event *e)
{
    return e->did != SIMT_COPY && e->did != SIMT_PRODUCT && e->did != SIMT_WAIT_LANES &&
           e->end - e->begin > TOGETHER;
}

/* Whether everything worth seeing that one warp did, another did at the same time. */
static bool covers(const simt_event *from, const simt_event *to, const simt_event *other,
                   const simt_event *other_to)
{
    for (const simt_event *e = from; e < to; e++) {
        bool found = !is_shown(e);
        while (other < other_to && other->begin < e->begin - TOGETHER)
            other++;
        for (const simt_event *o = other; o < other_to && o->begin <= e->begin + TOGETHER && !found; o++)
            found = o->did == e->did && fabs(o->end - e->end) <= TOGETHER;
        if (!found)
            return false;
    }
    return true;
}

static bool alike(const lanes_actor *a, const simt_event *from, const simt_event *to)
{
    return covers(a->from, a->to, from, to) && covers(from, to, a->from, a->to);
}

static bool is_idle(const simt_event *from, const simt_event *to)
{
    for (const simt_event *e = from; e < to; e++)
        if (e->did == SIMT_COPY || e->did == SIMT_PRODUCT || e->did == SIMT_WORK)
            return false;
    return !role_of(from, to)[0];
}

static void find_actors(lanes *l, const simt_event *from, const simt_event *to)
{
    while (from < to) {
        const simt_event *end = from;
        while (end < to && end->warp == from->warp)
            end++;
        lanes_actor *last = l->n_actors ? &l->actor[l->n_actors - 1] : NULL;
        const char *role = role_of(from, end);
        if (last && last->last + 1 == from->warp && from->warp / 4 == last->first / 4 &&
            strcmp(last->role, role) == 0 && alike(last, from, end))
            last->last = from->warp;
        else if (!is_idle(from, end) && l->n_actors < LANES_ACTORS)
            l->actor[l->n_actors++] = (lanes_actor){role, from->warp, from->warp, from, end, 0};
        from = end;
    }
}

static int actor_of(const lanes *l, unsigned warp)
{
    for (int i = 0; i < l->n_actors; i++)
        if (warp >= l->actor[i].first && warp <= l->actor[i].last)
            return i;
    return -1;
}

/* ---- Bars ----------------------------------------------------------------------------------------- */

static lanes_bar bar_of(const lanes *l, const simt_event *e)
{
    return (lanes_bar){e->begin, e->served, e->end, e->busy, e->bytes, e->object, actor_of(l, e->warp), 0};
}

static int by_begin(const void *a, const void *b)
{
    const lanes_bar *x = a, *y = b;
    return x->begin != y->begin ? (x->begin < y->begin ? -1 : 1)
                                : (x->object > y->object) - (x->object < y->object);
}

static int by_object(const void *a, const void *b)
{
    const lanes_bar *x = a, *y = b;
    return x->object != y->object ? (x->object < y->object ? -1 : 1) : by_begin(a, b);
}

/* The first row of those from `first` on that is free when this bar begins; the last one, if none is. */
static int free_row(const double *busy_until, int rows, double begin)
{
    for (int row = 0; row < rows; row++)
        if (busy_until[row] <= begin)
            return row;
    return rows - 1;
}

static void stack_products(lanes *l)
{
    double until[LANES_ACTORS][LANES_ROWS] = {{0}};
    for (size_t i = 0; i < l->n_products; i++) {
        lanes_bar *b = &l->product[i];
        lanes_actor *a = &l->actor[b->actor];
        b->row = free_row(until[b->actor], LANES_ROWS, b->begin);
        until[b->actor][b->row] = b->end;
        a->product_rows = b->row + 1 > a->product_rows ? b->row + 1 : a->product_rows;
    }
}

/* Copies that one barrier counts and that are issued one right after the other become one bar. */
static void merge_copies(lanes *l)
{
    size_t n = 0;
    qsort(l->copy, l->n_copies, sizeof *l->copy, by_object);
    for (size_t i = 0; i < l->n_copies; i++) {
        const lanes_bar *c = &l->copy[i];
        lanes_bar *last = n ? &l->copy[n - 1] : NULL;
        if (last && last->object == c->object && c->begin - last->begin <= TOGETHER) {
            last->end = fmax(last->end, c->end);
            last->served = fmin(last->served, c->served);
            last->busy += c->busy;
            last->bytes += c->bytes;
        } else {
            l->copy[n++] = *c;
        }
    }
    l->n_copies = n;
}

/* A barrier's copies share a row where they do not overlap: that is how a ring is used. */
static void stack_copies(lanes *l)
{
    double until[LANES_ROWS] = {0};
    int first = 0, rows = 0;
    for (size_t i = 0; i < l->n_copies; i++) {
        lanes_bar *c = &l->copy[i];
        if (i > 0 && c->object != c[-1].object) {
            memset(until, 0, sizeof until);
            first += rows;
            rows = 0;
        }
        const int row = free_row(until, LANES_ROWS, c->begin);
        until[row] = c->end;
        rows = row + 1 > rows ? row + 1 : rows;
        c->row = first + row;
    }
    l->copy_rows = first + rows;
    qsort(l->copy, l->n_copies, sizeof *l->copy, by_begin);
}

static bool find_bars(lanes *l, const simt_event *from, const simt_event *to)
{
    const size_t n = (size_t)(to - from) + 1;
    l->product = malloc(n * sizeof *l->product);
    l->copy = malloc(n * sizeof *l->copy);
    if (!l->product || !l->copy)
        return false;
    for (const simt_event *e = from; e < to; e++) {
        l->end = fmax(l->end, e->end);
        if (e->did == SIMT_PRODUCT && actor_of(l, e->warp) >= 0)
            l->product[l->n_products++] = bar_of(l, e);
        if (e->did == SIMT_COPY)
            l->copy[l->n_copies++] = bar_of(l, e);
    }
    qsort(l->product, l->n_products, sizeof *l->product, by_begin);
    stack_products(l);
    merge_copies(l);
    stack_copies(l);
    return true;
}

bool lanes_sort(const simt_event *event, size_t n, int64_t launch, uint64_t block, lanes *out)
{
    const uint64_t wanted = launch < 0 ? best_launch(event, n) : (uint64_t)launch;
    const simt_event *from = event, *to;
    *out = (lanes){.launch = wanted, .block = block};
    while (from < event + n && (from->launch != wanted || from->block != block))
        from++;
    for (to = from; to < event + n && to->launch == wanted && to->block == block; to++)
        ;
    if (from == to)
        return false;
    find_actors(out, from, to);
    if (!find_bars(out, from, to)) {
        lanes_free(out);
        return false;
    }
    out->kernel = from->kernel;
    return out->n_actors > 0;
}

void lanes_free(lanes *l)
{
    free(l->product);
    free(l->copy);
    l->product = l->copy = NULL;
    l->n_products = l->n_copies = 0;
}
