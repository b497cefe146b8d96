/* msa timeline --predict: how long each stage would take a GPU, by the clocks of its kernel's inner loop. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../bench/roofline.h"
#include "cases.h"
#include "timeline_predict.h"

/* cuda/clocks.csv, which make cuda-report reads out of the machine code: a turn of a loop by all warps of an SM, and a
 * section that a warp goes through alone, whose `from` is "-" and whose turn is all it takes. */
static const struct loop {
    const char *name;
    double tensor, issue, mufu, shared, bytes;
    const char *from;
    double turn;
} loops[] = {
#include "ref/cli/clocks.inc"
};

/* Of SXM boards: SMs, their clock under load, what of the data sheet's memory rate a copy reaches, bytes a clock that L2
 * delivers to an SM (cuda/clocks.def). */
#define SMS 132
#define CLOCK 1.755e9
#define REACHED 0.9
#define L2 24
/* Clocks from the end of what a launch waits for until its threads go on: a microsecond, a usual figure of dependent launches;
 * and those of a load whose answer all wait for (latency LDG of clocks.def). */
#define LAUNCH 1755
#define LATENCY 600
/* Bytes a clock that L2 delivers to one SM alone; tokens of a step of attention, the least of a part; most parts of a cluster. */
#define L2_ALONE 64
#define ATTEND_STEP 128
#define PART_TOKENS 256
#define MAX_CLUSTER 8

/* What the loops' tiles are counted for: channels, keys a block, blocks a query, heads a group; of groups as many as score
 * together in a step. */
#define WIDTH 128
#define BLOCK 128
#define TOPK 16
#define GROUP 16
#define MOST_GROUPS 8
#define LEAST_TOKENS 8192
#define MOST_TOKENS (1 << 24)

/* Union of the blocks of 8 neighbours, of structured selections (chapter 14); a turn of sparse/union takes two blocks. */
#define UNION8 18.7
#define UNION_TURN 2
/* Tokens from which on a step screens: screen_from of cuda/tunables.def. */
#define SCREENED (1024 * BLOCK)

#define MOST_WORK 9
/* Turns of a loop, all SMs together; of a section, each. */
struct work {
    const char *loop;
    double turns, busiest; /* of one SM, where many have none; 0: all have as many */
};
#define TURNS(name, n)                                                                                       \
    {                                                                                                        \
        .loop = (name), .turns = (n)                                                                         \
    }

/* What a stage does for n tokens: a prompt of so many, or a step of generation over as many. */
typedef struct stage {
    const char *name;   /* a kernel's, and ":" with what tells its rows apart */
    double flop, bytes; /* the least there is to do */
    struct work work[MOST_WORK];
    double more_bytes;   /* moved beside the loops */
    int launches, loads; /* of a step, that follow each other; a prompt's are nothing beside its loops */
    const char *ids;     /* of such selections; NULL: of any */
    int batch;           /* requests, of which each makes one step; 0: a prompt */
    const char *keys;    /* of its index, where that is not bf16 */
    int part[2]; /* a layer's: which stages follow each other, in its table; 0 and 0: it is one itself */
} stage;

static bool is_layer(const stage *s)
{
    return s->part[1] > 0;
}

static const struct loop *find_loop(const char *name, double n)
{
    char at_length[64];
    snprintf(at_length, sizeof at_length, "%s:%s", name, n < 65536 ? "32K" : n < 524288 ? "128K" : "1M");
    for (size_t i = 0; i < sizeof loops / sizeof *loops; i++)
        if (strcmp(loops[i].name, name) == 0 || strcmp(loops[i].name, at_length) == 0)
            return &loops[i];
    return NULL;
}

/* Clocks of a turn, and which resource takes them. */
static double longest(const struct loop *l, const roofline_gpu *gpu, const char **which)
{
    const bool cached = strcmp(l->from, "L2") == 0;
    const double memory = cached ? L2 : REACHED * gpu->bytes / CLOCK / SMS;
    const struct {
        const char *name;
        double clocks;
    } all[] = {{"tensor", l->tensor},
               {"issue", l->issue},
               {"mufu", l->mufu},
               {"shared", l->shared},
               {cached ? "L2" : "memory", l->bytes / memory},
               {"turn", l->turn}};
    double most = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].clocks > most)
            most = all[i].clocks, *which = all[i].name;
    return most;
}

/* Seconds of a loop that SMs share, or of a section that each goes through. Where few SMs have turns these wait for what one
 * can do, or for what comes from memory for all of them. */
static double time_of(const struct work *w, double n, const roofline_gpu *gpu, const char **which)
{
    const struct loop *l = find_loop(w->loop, n);
    if (!l) { /* tests/test_predict.sh: every name is in the table */
        *which = "unknown";
        return NAN;
    }
    if (strcmp(l->from, "-") == 0) {
        *which = "alone";
        return w->turns * l->turn / CLOCK;
    }
    if (w->busiest <= 0)
        return ceil(w->turns / SMS) * longest(l, gpu, which) / CLOCK;
    const double one = w->busiest * fmax(l->turn, l->bytes / L2_ALONE) / CLOCK,
                 together = w->turns * l->bytes / (REACHED * gpu->bytes);
    *which = one > together ? "turn" : "memory";
    return fmax(one, together);
}

/* Seconds, and what takes most of them. */
static double predict(const stage *all, const stage *s, double n, const roofline_gpu *gpu, const char **which)
{
    const char *of[2] = {"memory", "memory"};
    if (is_layer(s)) {
        const double first = predict(all, &all[s->part[0]], n, gpu, &of[0]),
                     then = predict(all, &all[s->part[1]], n, gpu, &of[1]);
        *which = of[then > first];
        return first + then;
    }
    double sum = s->more_bytes / (REACHED * gpu->bytes) + (s->launches * LAUNCH + s->loads * LATENCY) / CLOCK,
           most = 0;
    for (int i = 0; i < MOST_WORK && s->work[i].loop; i++) {
        const char *what = "";
        const double took = time_of(&s->work[i], n, gpu, &what);
        sum += took;
        if (took > most)
            most = took, *which = what;
    }
    return sum;
}

static double roofline(const stage *all, const stage *s, const roofline_gpu *gpu)
{
    if (is_layer(s))
        return roofline(all, &all[s->part[0]], gpu) + roofline(all, &all[s->part[1]], gpu);
    return fmax(s->flop / gpu->flops, (s->bytes + s->more_bytes) / gpu->bytes);
}

/* ---- What was measured ---------------------------------------------------------------------------------- */

#ifdef HAVE_JANSSON
#include "results_charts.h"

typedef struct measurements {
    json_t *file[CLI_MAX_LIST];
    int n, compared;
    double error; /* the sum of |predicted / measured - 1| */
} measurements;

static int read_measurements(const char *command, const cli_list *paths, measurements *m)
{
    for (; m->n < paths->n; m->n++) {
        const int bad = charts_read(command, paths->item[m->n], &m->file[m->n]);
        if (bad)
            return bad;
    }
    return 0;
}

static void free_measurements(measurements *m)
{
    while (m->n > 0)
        json_decref(m->file[--m->n]);
}

/* "sparse/union:structured" measures sparse/union; KL's is called so by msa bench too. */
static bool is_kernel(const stage *s, const json_t *r)
{
    char name[128], base[128];
    snprintf(name, sizeof name, "%s/%s", charts_words(r, "stage"), charts_words(r, "kernel"));
    snprintf(base, sizeof base, "%.*s%s", (int)strcspn(s->name, ":"), s->name,
             strstr(s->name, ":kl") ? "+kl" : "");
    return strcmp(name, base) == 0;
}

static bool is_shape(const stage *s, const msa_shape *layer, double n, const json_t *r)
{
    const char *keys = charts_words(r, "index_dtype");
    const bool other_keys = strcmp(keys, "fp8") == 0 || strcmp(keys, "int8") == 0;
    return charts_number(r, "n") == n && charts_number(r, "n_q") == (s->batch ? 1 : n) &&
           charts_number(r, "batch") == (s->batch ? s->batch : 1) &&
           charts_number(r, "n_heads") == layer->n_heads &&
           charts_number(r, "n_kv_heads") == layer->n_kv_heads && charts_number(r, "block") == BLOCK &&
           charts_number(r, "topk") == TOPK &&
           (!s->ids || strcmp(charts_words(r, "distribution"), s->ids) == 0) &&
           (s->keys ? strcmp(keys, s->keys) == 0 : !other_keys);
}

static bool is_on(const json_t *file, const roofline_gpu *gpu)
{
    const char *device = charts_words(file, "device");
    const char *model = strstr(device, "H200") ? "H200" : strstr(device, "H800") ? "H800" : "H100";
    return charts_is_gpu(file) && strstr(device, model) && strstr(gpu->name, model);
}

/* Milliseconds; 0: nobody measured it. */
static double measured(const measurements *m, const stage *s, const msa_shape *layer, double n,
                       const roofline_gpu *gpu)
{
    for (int i = 0; i < m->n; i++) {
        const json_t *results = json_object_get(m->file[i], "results");
        for (size_t k = 0; k < json_array_size(results) && is_on(m->file[i], gpu); k++) {
            const json_t *r = json_array_get(results, k);
            if (is_kernel(s, r) && is_shape(s, layer, n, r))
                return charts_number(r, "ms_median");
        }
    }
    return 0;
}
#else
typedef struct measurements {
    int n, compared;
    double error;
} measurements;
static int read_measurements(const char *command, const cli_list *paths, measurements *m)
{
    (void)m;
    return paths->n == 0
               ? 0
               : cli_fail(command,
                          "%s: expected a build with the JSON library jansson to read it, found one without",
                          paths->item[0]);
}
static void free_measurements(measurements *m)
{
    (void)m;
}
static double measured(const measurements *m, const stage *s, const msa_shape *layer, double n,
                       const roofline_gpu *gpu)
{
    (void)m, (void)s, (void)layer, (void)n, (void)gpu;
    return 0;
}
#endif

/* ---- The table -------------------------------------------------------------------------------------------- */

typedef struct table {
    msa_shape layer; /* its n_kv: the only length, or 0 */
    const roofline_gpu *gpu;
    measurements *found;
} table;

static void print_stage(const stage *all, const stage *s, double n, const table *t)
{
    const char *which = "";
    const double predicted = 1e3 * predict(all, s, n, t->gpu, &which), floor = 1e3 * roofline(all, s, t->gpu),
                 took = measured(t->found, s, &t->layer, n, t->gpu);
    printf("%-25s %8.0f  %-10s %12.3f  %-7s %12.3f %5.0f%%", s->name, n, t->gpu->name, predicted, which,
           floor, 100 * floor / predicted);
    if (took > 0) {
        printf(" %12.3f %+6.0f%%", took, 100 * (predicted / took - 1));
        t->found->error += fabs(predicted / took - 1);
        t->found->compared++;
    }
    printf("\n");
}

/* Turns are counted in the rows and keys, or scores, of one: see the tiles of cuda/clocks.def. Operations are those of
 * msa_cost(); a gradient has five products in place of Q K^T and P V, and KL three more of the index's width. */
static void print_prompt(double n, const msa_cost_row *cost, const table *t)
{
    enum { DENSE, INDEX, TOP, UNION, KV_OUTER };
    const double heads = t->layer.n_heads, groups = t->layer.n_kv_heads, causal = n * n / 2,
                 pairs = n * groups * TOPK, io = 2 * n * WIDTH * (2 * heads + 2 * groups),
                 partials = 2 * 2 * n * heads * TOPK * WIDTH, index = cost->index_share * cost->flop_msa,
                 sparse = cost->flop_msa - index, gradients = 2.5 * sparse,
                 kl = 2 * 3 * pairs * BLOCK * WIDTH, scores = groups * causal / BLOCK;
    const stage stages[] = {
        [DENSE] = {"dense/hopper", cost->flop_gqa, io, {TURNS("dense/hopper", heads * causal / (128 * 128))}},
        [INDEX] = {"index/fused",
                   index,
                   2 * n * WIDTH * (groups + 1),
                   {TURNS("index/fused", groups * causal / (256 * 128))}},
        [TOP] = {"topk/threshold", 0, 4 * scores, {TURNS("topk/threshold", scores / (28 * 1024))}},
        [UNION] = {"sparse/union",
                   sparse,
                   io,
                   {TURNS("sparse/union", n * groups / 8 * UNION8 / UNION_TURN)},
                   .ids = "structured"},
        [KV_OUTER] =
            {"sparse/kv_outer", sparse, io, {TURNS("sparse/kv_outer", pairs / 8)}, partials, .ids = "random"},
        {"prefill/auto:structured", .ids = "structured", .part = {INDEX, UNION}},
        {"prefill/auto:random", .ids = "random", .part = {INDEX, KV_OUTER}},
        {"backward/hopper", gradients, 2 * io, {TURNS("backward/hopper", pairs / 4)}},
        {"backward/hopper:kl", gradients + kl, 2 * io, {TURNS("backward/hopper:kl", pairs / 4)}},
        {"dense_backward/hopper", 2.5 * cost->flop_gqa, 2 * io, {TURNS("backward/hopper", scores / 4)}}};
    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++)
        print_stage(stages, &stages[i], n, t);
}

/* Parts of a row: no SM has two while it can have one, each has `least` tokens; of a cluster they are a power of two. */
static double parts_of(double rows, double tokens, double least)
{
    return fmin(fmax(floor(SMS / rows), 1), tokens / least);
}
static double cluster_of(double rows, double tokens)
{
    return exp2(floor(log2(fmin(parts_of(rows, tokens, PART_TOKENS), MAX_CLUSTER))));
}
/* What all steps end with: turns of 128 tokens, and what one warp does before and after them. */
#define ATTEND(rows, tokens, parts)                                                                          \
    {.loop = "decode/swapped:attend",                                                                        \
     .turns = (rows) * (tokens) / ATTEND_STEP,                                                               \
     .busiest = ceil((tokens) / (parts) / ATTEND_STEP) * ceil((rows) * (parts) / SMS)},                      \
        TURNS("decode/swapped:values", 1)
#define LAST(rows)                                                                                           \
    TURNS("decode/swapped:choose", 1), TURNS("decode/swapped:rank", 1),                                      \
        ATTEND(rows, chosen, cluster_of(rows, chosen)), TURNS("decode/swapped:send", 1),                     \
        TURNS("decode/swapped:merge", 1)
#define LAST_DENSE(rows)                                                                                     \
    ATTEND(rows, n, parts_of(rows, n, ATTEND_STEP)), TURNS("dense_decode/split:finish", 1),                  \
        TURNS("dense_decode/split:merge", 1)

/* Steps of generation. Index keys come 128 a turn. Launches: the cache's update, scores and attention; the update beside
 * bounds, what these leave open, attention; of dense attention two. Each but the last begins with a page's number and what
 * lies there; the last one's page is part of its rank. */
static void print_steps(double n, const msa_cost_row *cost, const table *t)
{
    const double keys = 2 * WIDTH * n, attend = cost->bytes_msa - keys, settle = cost->bytes_settle,
                 dense = cost->bytes_gqa, rows = t->layer.n_kv_heads, turns = n / 128,
                 chosen = (double)TOPK * BLOCK, settled = settle / (2 * WIDTH * 128);
    const stage stages[] = {
        {"decode/swapped",
         0,
         keys + attend,
         {TURNS("decode/swapped", turns), LAST(rows)},
         .launches = 3,
         .loads = 5,
         .batch = 1},
        {"decode/swapped:last", 0, attend, {LAST(rows)}, .launches = 1, .loads = 1, .batch = 1},
        {"decode/swapped:b8",
         0,
         8 * (keys + attend),
         {TURNS("decode/swapped", 8 * turns), LAST(8 * rows)},
         .launches = 3,
         .loads = 5,
         .batch = 8},
        {"decode/swapped:b8-int8",
         0,
         8 * (keys / 2 + settle + attend),
         {TURNS("decode/swapped:screen", 8 * turns), TURNS("decode/swapped:tau", 1),
          TURNS("decode/swapped:settle", 8 * settled), LAST(8 * rows)},
         .launches = 3,
         .loads = 5,
         .batch = 8,
         .keys = "int8"},
        {"decode/swapped:b8-fp8",
         0,
         8 * (keys / 2 + attend),
         {TURNS("decode/swapped:e4m3", 8 * turns), LAST(8 * rows)},
         .launches = 3,
         .loads = 5,
         .batch = 8,
         .keys = "fp8"},
        {"dense_decode/split", 0, dense, {LAST_DENSE(rows)}, .launches = 2, .loads = 4, .batch = 1},
        {"dense_decode/split:b8",
         0,
         8 * dense,
         {LAST_DENSE(8 * rows)},
         .launches = 2,
         .loads = 4,
         .batch = 8}};
    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++)
        if (n >= SCREENED || !stages[i].keys || strcmp(stages[i].keys, "int8") != 0)
            print_stage(stages, &stages[i], n, t);
}

static void print_length(double n, const table *t)
{
    msa_cost_row cost;
    msa_cost(&t->layer, (int64_t)n, &cost);
    print_prompt(n, &cost, t);
    print_steps(n, &cost, t);
}

/* M3's layer, with other heads or of one length. */
static int read_layer(const char *command, const char *text, msa_shape *s)
{
    *s = (msa_shape){.n_heads = 64,
                     .n_kv_heads = 4,
                     .d_head = WIDTH,
                     .d_index = WIDTH,
                     .block = BLOCK,
                     .topk = TOPK,
                     .n_seqs = 1};
    const int bad = text ? case_read_shape(command, text, s) : 0;
    if (bad)
        return bad;
    const bool tiles = s->d_head == WIDTH && s->d_index == WIDTH && s->block == BLOCK && s->topk == TOPK &&
                       s->n_heads == GROUP * s->n_kv_heads && s->n_kv_heads >= 1 &&
                       s->n_kv_heads <= MOST_GROUPS,
               length = s->n_q == s->n_kv && s->n_seqs == 1 &&
                        (s->n_kv == 0 || (s->n_kv >= LEAST_TOKENS && s->n_kv <= MOST_TOKENS));
    if (!tiles || !length)
        return cli_fail(
            command,
            "--predict: expected a --shape with T = S from %d to %d, up to %d groups of %d heads, "
            "width=%d:%d block=%d topk=%d, which the counted tiles are of, found '%s'",
            LEAST_TOKENS, MOST_TOKENS, MOST_GROUPS, GROUP, WIDTH, WIDTH, BLOCK, TOPK, text);
    return 0;
}

int timeline_predict(const char *command, const char *shape, const cli_list *files)
{
    static measurements m; /* too large for a stack */
    table t = {.found = &m};
    int bad = read_layer(command, shape, &t.layer);
    bad = bad ? bad : read_measurements(command, files, &m);
    if (!bad) {
        printf("Predicted from instruction counts and usual latencies: %d heads in %d groups, %d SMs at "
               "%.3f GHz.\n",
               t.layer.n_heads, t.layer.n_kv_heads, SMS, CLOCK / 1e9);
        printf("%-25s %8s  %-10s %12s  %-7s %12s %6s %12s %7s\n", "stage", "tokens", "GPU", "predicted ms",
               "longest", "roofline ms", "of it", "measured ms", "error");
        const double only = (double)t.layer.n_kv;
        for (t.gpu = roofline_gpus; t.gpu < roofline_gpus + ROOFLINE_GPUS; t.gpu++)
            for (double n = only > 0 ? only : 8192; n <= (only > 0 ? only : 1048576); n *= 2)
                print_length(n, &t);
        if (m.compared)
            printf("error of the model: %.0f%%, the mean of %d measurements\n", 100 * m.error / m.compared,
                   m.compared);
    }
    free_measurements(&m);
    return bad;
}
