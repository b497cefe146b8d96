/**
 * @file test_maps.c
 * @brief What `msa dump` shows: maps against the same by plain loops, and how they look.
 *
 * The pictures and the page of small made-up maps are known by their checksums. Whoever changes how they look
 * runs `test_maps --write DIR`, looks at what is there, and puts the new sums below.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../ref/judge/inputs.h"
#include "../ref/picture/panels.h"
#include "../ref/picture/viewer.h"
#include "support/check.h"
#include "support/scratch.h"

enum { T = 13, S = 45, G = 2, H = 4, D = 8, BLOCK = 8, TOPK = 3, B = 6, PREFIX = S - T };
static const msa_shape shape = {T, S, H, G, D, D, BLOCK, TOPK, 1, NULL, NULL, NULL, NULL};
static const verdict_budget close = {1e-6, 1e-6, NULL};

/* ---- Maps by hand ------------------------------------------------------------------------------------- */

static bool holds(const int32_t *row, int32_t id)
{
    return row[0] == id || row[1] == id || row[2] == id;
}

/* The blocks with the largest mass: those with fewer than TOPK above them. */
static bool is_ideal(const float *mass, int n, int b)
{
    int above = 0;
    for (int other = 0; other < n; other++)
        above += mass[other] > mass[b];
    return above < TOPK;
}

static void row_by_hand(check_case *c, const maps *m, int group, int i)
{
    const int local = (PREFIX + i) / BLOCK;
    const size_t row = maps_row(m, group, i);
    const int32_t *ids = m->ids + (group * T + i) * TOPK;
    double denom = 0, share[B] = {0}, found[B];
    for (int b = 0; b <= local; b++)
        denom += exp((double)m->scores[row + (size_t)b]);
    for (int b = 0; b < B; b++) {
        share[b] = b <= local ? exp((double)m->scores[row + (size_t)b]) / denom : 0;
        found[b] = (double)m->share[row + (size_t)b];
        const int ideal = m->mass && is_ideal(m->mass + row, local + 1, b) ? MAPS_IDEAL : 0;
        const int fate = b > local ? MAPS_HIDDEN : (holds(ids, b) ? MAPS_CHOSEN : 0) | ideal;
        check_true(c, m->fate[row + (size_t)b] == fate, "group %d, query %d, block %d: fate %d, expected %d",
                   group, i, b, m->fate[row + (size_t)b], fate);
    }
    check_doubles_near(c, "share", B, share, found, close);
    check_true(c, maps_local(&shape, i) == local, "local block of query %d", i);
}

static void maps_by_hand(bool with_mass)
{
    check_case c =
        check_begin("maps %s: shares, fates, recall, frequency", with_mass ? "with mass" : "without q and k");
    inputs in;
    maps m;
    void *work = check_alloc((int64_t)(msa_workspace(NULL, &shape) + msa_recall_workspace(&shape)), 1);
    bool ok = inputs_new(&in, &shape, INPUTS_NORMAL, check_seed(1)) && maps_new(&m, &shape, with_mass) &&
              maps_compute(&m, &msa_ref_ops, in.q, in.k, in.qi, in.ki, work) == MSA_OK;
    check_true(&c, ok && m.n_blocks == B, "computed");
    float *scores = check_floats(G * T * B), *mass = check_floats(G * T * B),
          *recall = check_floats(2 * G * T);
    int32_t *ids = check_ints(G * T * TOPK);
    msa_recall_result mean;
    msa_index(&shape, in.qi, in.ki, scores, ids, NULL, work);
    msa_block_mass(&shape, in.q, in.k, mass, work);
    msa_recall(&shape, in.q, in.k, ids, recall, &mean, work);
    check_same(&c, "scores", scores, m.scores, G * T * B * sizeof *scores);
    check_same(&c, "ids", ids, m.ids, G * T * TOPK * sizeof *ids);
    for (int r = 0; r < G; r++)
        for (int i = 0; i < T; i++)
            row_by_hand(&c, &m, r, i);
    if (with_mass) {
        check_same(&c, "mass", mass, m.mass, G * T * B * sizeof *mass);
        check_same(&c, "recall", recall, m.recall, 2 * G * T * sizeof *recall);
        for (int r = 0; r < G; r++) {
            double sum[2] = {0}, found[2];
            for (int i = 0; i < T; i++)
                for (int kind = 0; kind < 2; kind++)
                    sum[kind] += (double)recall[(kind * G + r) * T + i] / T;
            check_true(&c, maps_recall(&m, r, &found[0], &found[1]) == T, "all had to choose");
            check_doubles_near(&c, "mean recall", 2, sum, found, close);
        }
    }
    enum { FIRST = PREFIX / BLOCK, QUERY_BLOCKS = B - FIRST };
    float frequency[G * QUERY_BLOCKS * B];
    check_true(&c, maps_query_blocks(&shape) == QUERY_BLOCKS, "blocks of queries");
    maps_frequency(&m, frequency);
    for (int at = 0; at < G * QUERY_BLOCKS * B; at++) {
        const int b = at % B, block = FIRST + at / B % QUERY_BLOCKS, r = at / B / QUERY_BLOCKS;
        int queries = 0, chosen = 0;
        for (int i = 0; i < T; i++)
            if ((PREFIX + i) / BLOCK == block) {
                queries++;
                chosen += holds(ids + (r * T + i) * TOPK, b);
            }
        const double part = b > block ? -1 : (double)chosen / queries;
        check_true(&c, fabs((double)frequency[at] - part) < 1e-6, "frequency %g, expected %g",
                   (double)frequency[at], part);
    }
    maps_free(&m);
    inputs_free(&in);
    check_end(&c);
    check_release(NULL);
}

/* A row has to choose where more blocks are visible than it takes; the mean is over those. */
static void recall_of_few(void)
{
    const msa_shape s = {4, 4, 1, 1, 1, 1, 1, 2, 1, NULL, NULL, NULL, NULL};
    float recall[] = {9, 9, 0.5f, 0, 9, 9, 0.25f, 0.75f};
    const maps m = {.shape = s, .recall = recall};
    double block, score;
    tap(maps_recall(&m, 0, &block, &score) == 2 && block == 0.25 && score == 0.5,
        "recall of those that had to choose");
}

static void scale_of_colours(void)
{
    tap(maps_decades(1) == -1 && maps_decades(10) == -2 && maps_decades(11) == -3,
        "a tenth of an even share is on the scale");
    tap(maps_level(1, -2) == 1 && maps_level(0.1, -2) == 0.5 && maps_level(0.01, -2) == 0 &&
            maps_level(2, -2) == 1 && maps_level(1e-9, -2) == 0 && maps_level(0, -2) == 0 &&
            maps_level(NAN, -2) == 0,
        "levels are logarithmic, and stay between 0 and 1");
}

/* ---- How they look ------------------------------------------------------------------------------------ */

/* Of tokens queries over as many keys: every fate, shares in powers of ten, so that no rounding decides a
 * colour. */
static maps made_up(int tokens, int block, bool with_mass)
{
    const msa_shape s = {tokens, tokens + block, 2, 2, 4, 4, block, 2, 1, NULL, NULL, NULL, NULL};
    maps m;
    if (!maps_new(&m, &s, with_mass)) {
        tap(false, "memory");
        exit(1);
    }
    for (int64_t row = 0; row < 2 * tokens; row++)
        for (int64_t b = 0; b < m.n_blocks; b++) {
            const int64_t at = row * m.n_blocks + b, local = maps_local(&s, row % tokens),
                          kind = (row * 7 + b * 3) % 5;
            m.share[at] = b > local ? 0 : kind == 4 ? 0 : (float)pow(10, -(double)kind);
            m.scores[at] = b > local ? -INFINITY : 3 - (float)kind;
            m.fate[at] = b > local ? MAPS_HIDDEN : (int32_t)((3 * row + b * (b + 1) / 2) % 4);
            if (with_mass)
                m.mass[at] = b > local ? 0 : (float)pow(10, -(double)((kind + b) % 4));
        }
    for (int64_t a = 0; with_mass && a < 4 * tokens; a++)
        m.recall[a] = (float)(a % 9) / 8;
    return m;
}

static uint64_t sum_of(const void *data, size_t bytes, uint64_t h)
{
    for (size_t i = 0; i < bytes; i++)
        h = (h ^ ((const unsigned char *)data)[i]) * 0x100000001b3u;
    return h;
}

static const char *write_to;

static void looks_as_it_did(const char *name, uint64_t found, uint64_t expected)
{
    tap(found == expected, "%s looks as it did: %#" PRIx64 " (found %#" PRIx64 ")", name, expected, found);
}

static void picture(const char *name, canvas im, uint64_t expected)
{
    const int size[] = {im.width, im.height};
    if (write_to) {
        char path[IO_ERR], written[IO_ERR];
        io_error err;
        snprintf(path, sizeof path, "%s/%s.png", write_to, name);
        tap(canvas_write_png(path, &im, NULL, 0, written, err), "%s", path);
    }
    looks_as_it_did(
        name,
        sum_of(im.pixel, (size_t)(im.width * im.height) * sizeof *im.pixel, sum_of(size, sizeof size, 1)),
        expected);
    canvas_free(&im);
}

static void pictures(void)
{
    static const char source[] =
        "made up, with a source so long that it goes on in a second line of the picture, where "
        "there is room for it, and a_word_without_an_end";
    maps m = made_up(21, 4, true), bare = made_up(21, 4, false), folded = made_up(1500, 2, true);
    picture("panels", panels_draw(&m, 3, 1, source), 0xa08431c27b8dca38);
    picture("panels-without-mass", panels_draw(&bare, 0, 0, "q"), 0x5878e0eedbe17e41);
    picture("panels-folded", panels_draw(&folded, 0, 1, "q"), 0x15365e3069f1d662);
    maps_free(&m), maps_free(&bare), maps_free(&folded);
    enum { LAYERS = 10, GROUPS = 2, QUERY_BLOCKS = 5, KEY_BLOCKS = 7 };
    float frequency[LAYERS * GROUPS * QUERY_BLOCKS * KEY_BLOCKS];
    int layer[LAYERS];
    for (int l = 0; l < LAYERS; l++)
        layer[l] = 2 * l;
    for (int a = 0; a < LAYERS * GROUPS * QUERY_BLOCKS * KEY_BLOCKS; a++)
        frequency[a] = a % KEY_BLOCKS > a / KEY_BLOCKS % QUERY_BLOCKS + 2 ? -1 : (float)(a % 17) / 16;
    picture("frequency",
            panels_frequency(&(panels_grid){LAYERS, GROUPS, layer, QUERY_BLOCKS, KEY_BLOCKS, frequency}, "q"),
            0x897df8a1fc843100);
    picture("frequency-of-three",
            panels_frequency(&(panels_grid){3, 1, layer, QUERY_BLOCKS, KEY_BLOCKS, frequency}, "q"),
            0x1da9f27c7872b60);
}

/* The data of a page, between the marks that its script puts around it. */
static void page(const char *name, int tokens, int block, bool with_mass, const char *text, uint64_t expected)
{
    maps m = made_up(tokens, block, with_mass);
    char path[IO_ERR];
    snprintf(path, sizeof path, "%s/%s.html", write_to ? write_to : scratch("."), name);
    viewer *v = viewer_new(&(viewer_page){m.shape, (const uint8_t *)text, "<source>", "msa dump"});
    io_error err;
    viewer_add(v, &m, 0);
    viewer_add(v, &m, 5);
    bool ok = viewer_write(v, path, err);
    char *all = NULL, *begin = NULL, *end = NULL;
    FILE *f = fopen(path, "rb");
    if (ok && f) {
        all = check_alloc(1 << 22, 1);
        ok = fread(all, 1, (1 << 22) - 1, f) > 0;
        begin = strstr(all, "{\"source\"");
        end = begin ? strstr(begin, "]}") : NULL;
    }
    if (f)
        fclose(f);
    looks_as_it_did(name, ok && end ? sum_of(begin, (size_t)(end - begin), 1) : 0, expected);
    viewer_free(v);
    maps_free(&m);
    check_release(NULL);
}

int main(int argc, char **argv)
{
    write_to = argc == 3 && strcmp(argv[1], "--write") == 0 ? argv[2] : NULL;
    check_start(write_to ? 0 : argc, argv);
    maps_by_hand(true);
    maps_by_hand(false);
    recall_of_few();
    scale_of_colours();
    pictures();
    page("page", 21, 4, true, "a text of 25 tokens, <&>.", 0xaea2d7aa509b8eda);
    page("page-without-mass", 21, 4, false, NULL, 0x2bf4d9c15a135d8c);
    page("page-of-every-second", 2049, 64, true, NULL, 0x6bafb55588100bec);
    page("page-of-all-that-fit", 2048, 64, true, NULL, 0x9dda2278535580ab);
    return check_done();
}
