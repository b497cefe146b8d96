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

/* What a stage does for a prompt of n tokens. */
typedef struct stage {
    const char *name;
    double turns;       /* of its loop, all SMs together */
    double flop, bytes; /* the least there is to do */
    double more_bytes;  /* moved beside the loop */
} stage;

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
    const double memory = strcmp(l->from, "L2") == 0 ? L2 : REACHED * gpu->bytes / CLOCK / SMS;
    const struct {
        const char *name;
        double clocks;
    } all[] = {{"tensor", l->tensor}, {"issue", l->issue},           {"mufu", l->mufu},
               {"shared", l->shared}, {"memory", l->bytes / memory}, {"turn", l->turn}};
    double most = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].clocks > most)
            most = all[i].clocks, *which = all[i].name;
    return most;
}

static double predict(const stage *s, double n, const roofline_gpu *gpu, const char **which)
{
    const struct loop *l = find_loop(s->name, n);
    return l ? s->turns * longest(l, gpu, which) / SMS / CLOCK + s->more_bytes / (REACHED * gpu->bytes) : NAN;
}

static double roofline(const stage *s, const roofline_gpu *gpu)
{
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

static bool is_of(const json_t *file, const json_t *r, const char *kernel, double n, const roofline_gpu *gpu)
{
    char name[128], device[128];
    snprintf(name, sizeof name, "%s/%s", charts_words(r, "stage"), charts_words(r, "kernel"));
    snprintf(device, sizeof device, "%s", charts_words(file, "device"));
    const char *model = strstr(device, "H200") ? "H200" : strstr(device, "H800") ? "H800" : "H100";
    return charts_is_gpu(file) && strstr(device, model) && strstr(gpu->name, model) &&
           strcmp(name, kernel) == 0 && !strstr(charts_words(file, "command"), " --kl") &&
           charts_number(r, "n") == n && charts_number(r, "n_q") == n &&
           charts_number(r, "n_heads") == HEADS && charts_number(r, "n_kv_heads") == GROUPS &&
           charts_number(r, "block") == BLOCK && charts_number(r, "topk") == TOPK;
}

/* Milliseconds; 0: nobody measured it. */
static double measured(const measurements *m, const char *kernel, double n, const roofline_gpu *gpu)
{
    for (int i = 0; i < m->n; i++) {
        const json_t *results = json_object_get(m->file[i], "results");
        for (size_t k = 0; k < json_array_size(results); k++)
            if (is_of(m->file[i], json_array_get(results, k), kernel, n, gpu))
                return charts_number(json_array_get(results, k), "ms_median");
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
static double measured(const measurements *m, const char *kernel, double n, const roofline_gpu *gpu)
{
    (void)m, (void)kernel, (void)n, (void)gpu;
    return 0;
}
#endif

/* ---- The table -------------------------------------------------------------------------------------------- */

static void print_stage(const stage *s, double n, const roofline_gpu *gpu, measurements *m)
{
    const char *which = "";
    const double predicted = 1e3 * predict(s, n, gpu, &which), floor = 1e3 * roofline(s, gpu),
                 took = measured(m, s->name, n, gpu);
    printf("%-20s %8.0f  %-10s %12.3f  %-7s %12.3f %5.0f%%", s->name, n, gpu->name, predicted, which, floor,
           100 * floor / predicted);
    if (took > 0) {
        printf(" %12.3f %+6.0f%%", took, 100 * (predicted / took - 1));
        m->error += fabs(predicted / took - 1);
        m->compared++;
    }
    printf("\n");
}

/* Turns are counted in the rows and keys, or scores, of one: see the tiles of cuda/clocks.def. Operations are those of
 * msa_cost(); a gradient has five products in place of Q K^T and P V, and KL three more of the index's width. */
static void print_length(double n, const roofline_gpu *gpu, measurements *m)
{
    const msa_shape layer_of = {.n_heads = (int)HEADS,
                                .n_kv_heads = (int)GROUPS,
                                .d_head = (int)WIDTH,
                                .d_index = (int)WIDTH,
                                .block = (int)BLOCK,
                                .topk = (int)TOPK};
    msa_cost_row cost;
    msa_cost(&layer_of, (int64_t)n, &cost);
    const double causal = n * n / 2, pairs = n * GROUPS * TOPK,
                 layer = 2 * n * WIDTH * (2 * HEADS + 2 * GROUPS),
                 partials = 2 * 2 * n * HEADS * TOPK * WIDTH, index = cost.index_share * cost.flop_msa,
                 sparse = cost.flop_msa - index, gradients = 2.5 * sparse, kl = 2 * 3 * pairs * BLOCK * WIDTH;
    const stage stages[] = {
        {"dense/hopper", HEADS * causal / (128 * 128), cost.flop_gqa, layer, 0},
        {"index/fused", GROUPS * causal / (256 * 128), index, 2 * n * WIDTH * (GROUPS + 1), 0},
        {"topk/threshold", GROUPS * causal / BLOCK / (28 * 1024), 0, 4 * GROUPS * causal / BLOCK, 0},
        {"sparse/kv_outer", pairs / 8, sparse, layer, partials},
        {"backward/hopper", pairs / 4, gradients, 2 * layer, 0},
        {"backward/hopper:kl", pairs / 4, gradients + kl, 2 * layer, 0}};
    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++)
        print_stage(&stages[i], n, gpu, m);
}

int timeline_predict(const char *command, const cli_list *files)
{
    static measurements m; /* too large for a stack */
    int bad = read_measurements(command, files, &m);
    if (!bad) {
        printf("Predicted from instruction counts and usual latencies: M3's layer, %d SMs at %.3f GHz.\n",
               SMS, CLOCK / 1e9);
        printf("%-20s %8s  %-10s %12s  %-7s %12s %6s %12s %7s\n", "stage", "tokens", "GPU", "predicted ms",
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
