/* msa timeline --predict: how long each stage would take a GPU, by the clocks of its kernel's inner loop. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../bench/roofline.h"
#include "timeline_predict.h"

/* A turn of a loop by all warps of an SM: cuda/clocks.csv, which make cuda-report reads out of the machine code. */
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

/* M3's layer: 64 heads in 4 groups, channels, keys a block, blocks a query. */
#define HEADS 64.0
#define GROUPS 4.0
#define WIDTH 128.0
#define BLOCK 128.0
#define TOPK 16.0

/* Seconds until a dependent launch sees that the one before it has ended; clocks until memory answers; bytes a clock that L2
 * delivers to one SM while others are idle; and tokens of a step of attention and, at least, of a part (chapter 15). */
#define LAUNCH 1e-6
#define LATENCY 600
#define L2_ALONE 64
#define ATTEND_STEP 128
#define PART_TOKENS 256
/* Union of the blocks of 8 neighbours, of structured selections (chapter 14); a turn of sparse/union takes two blocks. */
#define UNION8 18.7
#define UNION_TURN 2

/* What a stage does for n tokens: a prompt of so many, or a step of generation over as many. */
typedef struct stage {
    const char *name;   /* a kernel's, and ":" with what tells its rows apart */
    double turns;       /* of its loop, all SMs together; a stage without that is as long as its bytes take */
    double flop, bytes; /* the least there is to do */
    double more_bytes;  /* moved beside the loop */
    const char *ids;    /* of such selections; NULL: of any */
    int batch;          /* requests, of which each makes one step; 0: a prompt */
    const char *loop;   /* where that is not called as the stage is */
    const char *keys;   /* of its index, where that is not bf16 */
    int launches;       /* of a step, of which the last one attends to chosen blocks */
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

static double clocks_of(const char *part)
{
    const struct loop *l = find_loop(part, 0);
    return l ? l->turn : NAN;
}

/* The last launch of a step for so many requests, beside the bytes that all its CTAs read: what one of them does, part after
 * part. Its keys and values come while later ones are asked for, as fast as memory or its own SM lets them. */
static double last_launch(const roofline_gpu *gpu, int requests)
{
    static const char *const parts[] = {"decode/swapped:choose", "decode/swapped:rank",
                                        "decode/swapped:values", "decode/swapped:finish",
                                        "decode/swapped:merge"};
    const double rows = requests * GROUPS, tokens = TOPK * BLOCK,
                 n = fmin(fmax(floor(SMS / rows), 1), tokens / PART_TOKENS),
                 steps = ceil(tokens / ATTEND_STEP / n), step_bytes = 2 * 2 * WIDTH * ATTEND_STEP,
                 together = rows * tokens / ATTEND_STEP * step_bytes / (REACHED * gpu->bytes / CLOCK),
                 one = steps * fmax(step_bytes / L2_ALONE, clocks_of("decode/swapped:attend"));
    double clocks = LATENCY + fmax(one - together, 0);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        clocks += clocks_of(parts[i]);
    return clocks / CLOCK;
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
    const struct loop *l = s->turns > 0 ? find_loop(s->loop ? s->loop : s->name, n) : NULL;
    const double memory = REACHED * gpu->bytes;
    *which = "memory";
    return (l ? s->turns * longest(l, gpu, which) / SMS / CLOCK : s->bytes / memory) +
           s->more_bytes / memory +
           (s->launches ? s->launches * LAUNCH + last_launch(gpu, s->batch ? s->batch : 1) : 0);
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

static bool is_shape(const stage *s, double n, const json_t *r)
{
    const char *keys = charts_words(r, "index_dtype");
    const bool other_keys = strcmp(keys, "fp8") == 0 || strcmp(keys, "int8") == 0;
    return charts_number(r, "n") == n && charts_number(r, "n_q") == (s->batch ? 1 : n) &&
           charts_number(r, "batch") == (s->batch ? s->batch : 1) && charts_number(r, "n_heads") == HEADS &&
           charts_number(r, "n_kv_heads") == GROUPS && charts_number(r, "block") == BLOCK &&
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
static double measured(const measurements *m, const stage *s, double n, const roofline_gpu *gpu)
{
    for (int i = 0; i < m->n; i++) {
        const json_t *results = json_object_get(m->file[i], "results");
        for (size_t k = 0; k < json_array_size(results) && is_on(m->file[i], gpu); k++) {
            const json_t *r = json_array_get(results, k);
            if (is_kernel(s, r) && is_shape(s, n, r))
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
static double measured(const measurements *m, const stage *s, double n, const roofline_gpu *gpu)
{
    (void)m, (void)s, (void)n, (void)gpu;
    return 0;
}
#endif

/* ---- The table -------------------------------------------------------------------------------------------- */

static void print_stage(const stage *all, const stage *s, double n, const roofline_gpu *gpu, measurements *m)
{
    const char *which = "";
    const double predicted = 1e3 * predict(all, s, n, gpu, &which), floor = 1e3 * roofline(all, s, gpu),
                 took = measured(m, s, n, gpu);
    printf("%-25s %8.0f  %-10s %12.3f  %-7s %12.3f %5.0f%%", s->name, n, gpu->name, predicted, which, floor,
           100 * floor / predicted);
    if (took > 0) {
        printf(" %12.3f %+6.0f%%", took, 100 * (predicted / took - 1));
        m->error += fabs(predicted / took - 1);
        m->compared++;
    }
    printf("\n");
}

static msa_cost_row cost_of(double n)
{
    const msa_shape layer_of = {.n_heads = (int)HEADS,
                                .n_kv_heads = (int)GROUPS,
                                .d_head = (int)WIDTH,
                                .d_index = (int)WIDTH,
                                .block = (int)BLOCK,
                                .topk = (int)TOPK};
    msa_cost_row cost;
    msa_cost(&layer_of, (int64_t)n, &cost);
    return cost;
}

/* Turns are counted in the rows and keys, or scores, of one: see the tiles of cuda/clocks.def. Operations are those of
 * msa_cost(); a gradient has five products in place of Q K^T and P V, and KL three more of the index's width. */
static void print_length(double n, const roofline_gpu *gpu, measurements *m)
{
    enum { DENSE, INDEX, TOP, UNION, KV_OUTER };
    const msa_cost_row cost = cost_of(n);
    const double causal = n * n / 2, pairs = n * GROUPS * TOPK,
                 layer = 2 * n * WIDTH * (2 * HEADS + 2 * GROUPS),
                 partials = 2 * 2 * n * HEADS * TOPK * WIDTH, index = cost.index_share * cost.flop_msa,
                 sparse = cost.flop_msa - index, gradients = 2.5 * sparse, kl = 2 * 3 * pairs * BLOCK * WIDTH,
                 bf16_keys = 2 * WIDTH * n, chosen = cost.bytes_msa - bf16_keys;
    const stage stages[] = {
        [DENSE] = {"dense/hopper", HEADS * causal / (128 * 128), cost.flop_gqa, layer},
        [INDEX] = {"index/fused", GROUPS * causal / (256 * 128), index, 2 * n * WIDTH * (GROUPS + 1)},
        [TOP] = {"topk/threshold", GROUPS * causal / BLOCK / (28 * 1024), 0, 4 * GROUPS * causal / BLOCK},
        [UNION] = {"sparse/union", n * GROUPS / 8 * UNION8 / UNION_TURN, sparse, layer, .ids = "structured"},
        [KV_OUTER] = {"sparse/kv_outer", pairs / 8, sparse, layer, partials, .ids = "random"},
        {"prefill/auto:structured", .ids = "structured", .part = {INDEX, UNION}},
        {"prefill/auto:random", .ids = "random", .part = {INDEX, KV_OUTER}},
        {"backward/hopper", pairs / 4, gradients, 2 * layer},
        {"backward/hopper:kl", pairs / 4, gradients + kl, 2 * layer},
        {"decode/swapped", n / 128, 0, bf16_keys, chosen, .batch = 1, .launches = 3},
        {"decode/swapped:last", 0, 0, chosen, .launches = 1},
        {"decode/swapped:b8", 8 * n / 128, 0, 8 * bf16_keys, 8 * chosen, .batch = 8, .loop = "decode/swapped",
         .launches = 3},
        {"decode/swapped:b8-int8", 8 * n / 128, 0, 4 * bf16_keys, 8 * (chosen + cost.bytes_settle),
         .batch = 8, .loop = "decode/swapped:screen", .keys = "int8", .launches = 3},
        {"decode/swapped:b8-fp8", 8 * n / 128, 0, 4 * bf16_keys, 8 * chosen, .batch = 8,
         .loop = "decode/swapped:e4m3", .keys = "fp8", .launches = 3},
        {"dense_decode/split", 0, 0, cost.bytes_gqa, .batch = 1, .launches = 2},
        {"dense_decode/split:b8", 0, 0, 8 * cost.bytes_gqa, .batch = 8, .launches = 2}};
    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++)
        print_stage(stages, &stages[i], n, gpu, m);
}

int timeline_predict(const char *command, const cli_list *files)
{
    static measurements m; /* too large for a stack */
    int bad = read_measurements(command, files, &m);
    if (!bad) {
        printf("Predicted from instruction counts and usual latencies: M3's layer, %d SMs at %.3f GHz.\n",
               SMS, CLOCK / 1e9);
        printf("%-25s %8s  %-10s %12s  %-7s %12s %6s %12s %7s\n", "stage", "tokens", "GPU", "predicted ms",
               "longest", "roofline ms", "of it", "measured ms", "error");
        for (int gpu = 0; gpu < ROOFLINE_GPUS; gpu++)
            for (double n = 8192; n <= 1048576; n *= 2)
                print_length(n, &roofline_gpus[gpu], &m);
        if (m.compared)
            printf("error of the model: %.0f%%, the mean of %d measurements\n", 100 * m.error / m.compared,
                   m.compared);
    }
    free_measurements(&m);
    return bad;
}
