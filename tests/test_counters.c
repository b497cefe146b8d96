/**
 * @file test_counters.c
 * @brief What the engine counts of a kernel, and its timeline as a picture shows it, do not depend on the
 * order of threads or on when copies and products take place.
 */
#include <stdio.h>
#include <string.h>

#include "../ref/bench/roofline.h"
#include "../ref/bench/trial.h"
#include "../ref/cli/timeline_lanes.h"
#include "../ref/table/table.h"
#include "support/check.h"

#ifndef HAVE_SIMT
int main(void)
{
    tap_skip("counters of the engine", "no C++ compiler here");
    return tap_done();
}
#else

/* Its rows come to a block in the order of their arrival, so which sectors neighbours share is the engine's order. */
static bool gathers_by_arrival(const msa_kernel *k)
{
    return k->stage == MSA_STAGE_INDEX && strcmp(k->name, "screened") == 0;
}

/* All that must not change: stalls tell of the engine's own order. */
static simt_counters counted(const trial *t, const msa_kernel *k, check_case *c)
{
    msa_arrays a;
    simt_counters n = {0};
    if (trial_run(t, k, &a) == MSA_OK)
        n = *simt_counts();
    else
        check_true(c, false, "runs: %s", t->engine->trouble());
    n.mbarrier_stalls = 0;
    if (gathers_by_arrival(k))
        n.load_sectors = n.store_sectors = 0;
    return n;
}

static void same_in_all_modes(const trial *t, const msa_kernel *k)
{
    check_case c =
        check_begin("%s/%s: the same counts in every order and timing", msa_stage_name(k->stage), k->name);
    msa_engine_mode(0, 0, 1);
    const simt_counters first = counted(t, k, &c);
    for (int mode = 1; mode < 9; mode++) {
        if (mode % 4 != 0 && !tap_full())
            continue; // all orders and all timings, not all pairs
        msa_engine_mode(mode / 3, mode % 3, check_seed((uint64_t)mode));
        const simt_counters again = counted(t, k, &c);
        check_same(&c, "counters", &first, &again, sizeof first);
    }
    msa_engine_mode(0, 0, 1);
    check_true(&c, first.launches > 0 && first.blocks > 0 && first.threads >= first.blocks, "launches");
    check_end(&c);
}

static bool same_bars(const lanes_bar *a, const lanes_bar *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (a[i].begin != b[i].begin || a[i].served != b[i].served || a[i].end != b[i].end ||
            a[i].bytes != b[i].bytes || a[i].row != b[i].row || a[i].actor != b[i].actor)
            return false;
    return true;
}

/* One CTA of dense/hopper: a producer, two consumers that are four warps each, and products that follow from
 * the shape. */
static void picture(const trial *t)
{
    check_case c = check_begin("dense/hopper: lanes of its timeline");
    const msa_kernel *k = table_find("dense/hopper", "simt");
    lanes l[2];
    for (int i = 0; i < 2; i++) {
        msa_arrays a;
        size_t n;
        msa_engine_mode(2 * i, 2 * i, check_seed(3));
        simt_record(0);
        check_true(&c, trial_run(t, k, &a) == MSA_OK, "runs");
        simt_record(-1);
        const simt_event *event = simt_events(&n);
        check_true(&c, lanes_sort(event, n, -1, 0, &l[i]), "has a block 0");
    }
    msa_engine_mode(0, 0, 1);
    check_true(&c, l[0].n_actors == 3 && strcmp(l[0].actor[0].role, "producer") == 0, "a producer");
    for (int i = 1; i < 3 && l[0].n_actors == 3; i++)
        check_true(&c,
                   strcmp(l[0].actor[i].role, "consumer") == 0 && l[0].actor[i].first == (unsigned)(4 * i) &&
                       l[0].actor[i].last == (unsigned)(4 * i + 3),
                   "consumer %d", i);
    const size_t tiles = (size_t)(t->shape.n_kv + 127) / 128;
    check_true(&c, l[0].n_products == 2 * 2 * tiles, "a score and a value product a consumer and tile");
    double busy = 0;
    for (size_t i = 0; i < l[0].n_products; i++) {
        const lanes_bar *b = &l[0].product[i];
        busy += b->busy;
        check_true(&c, b->begin <= b->served && b->served + b->busy <= b->end + 1e-6, "product %zu", i);
    }
    const double fma = 2.0 * 2 * 64 * 128 * t->shape.d_head * (double)tiles;
    check_true(&c, busy > fma / 2048 - 1e-6 && busy < fma / 2048 + 1e-6,
               "products take what their operations do");
    check_true(&c, l[0].n_copies == 1 + 2 * tiles, "Q, and K and V of every tile");
    check_true(&c, l[0].n_products == l[1].n_products && l[0].n_copies == l[1].n_copies, "the same bars");
    if (l[0].n_products == l[1].n_products && l[0].n_copies == l[1].n_copies)
        check_true(&c,
                   same_bars(l[0].product, l[1].product, l[0].n_products) &&
                       same_bars(l[0].copy, l[1].copy, l[0].n_copies),
                   "at the same clocks in another order of threads");
    check_end(&c);
    lanes_free(&l[0]);
    lanes_free(&l[1]);
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    const msa_shape small = {12, 300, 8, 2, 64, 64, 32, 3, 1, NULL, NULL, NULL, NULL};
    const msa_kernel *k;
    trial t;
    if (!trial_begin(&t, &small, SELECTION_RANDOM, 3, MSA_BF16))
        return 1;
    for (int i = 0; (k = table_at(i)) != NULL; i++)
        if (strcmp(k->backend, "simt") == 0)
            same_in_all_modes(&t, k);
    picture(&t);
    trial_end(&t);
    return check_done();
}
#endif
