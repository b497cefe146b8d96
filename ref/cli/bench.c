/* msa bench: a verdict, then the time, then the verdict again, for kernels of the table. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../bench/sample.h"
#include "../bench/useful.h"
#include "../table/table.h"
#include "cases.h"
#include "cli.h"
#include "bench_results.h"

#define MAX_KERNELS 64

typedef struct bench {
    const char *command, *backend, *shape, *json, *picture, *distribution, *index_keys;
    cli_list names;
    int64_t seed;
    double seconds, limit;
    bool lse, kl, no_ceilings, small, codes, half;
    selection_kind kind;
    const msa_kernel *kernel[MAX_KERNELS];
    int n_kernels;
    const msa_device *device;
    results results;
} bench;

/* ---- Which kernels --------------------------------------------------------------------------------- */

static void add(bench *b, const msa_kernel *kernel)
{
    for (int i = 0; i < b->n_kernels; i++)
        if (b->kernel[i] == kernel)
            return;
    if (b->n_kernels < MAX_KERNELS)
        b->kernel[b->n_kernels++] = kernel;
}

/* Every kernel on that back end that the word means; returns how many that were. */
static int add_meant(bench *b, const char *word, const char *backend)
{
    const msa_kernel *kernel;
    int n = 0;
    for (int i = 0; (kernel = table_at(i)) != NULL; i++)
        if (strcmp(kernel->backend, backend) == 0 && case_means(word, kernel)) {
            add(b, kernel);
            n++;
        }
    return n;
}

/* Without --backend a word that fast has no kernel for means the first back end that has one. */
static int add_word(bench *b, const char *word)
{
    static const char *const others[] = {"fast", "ref", "cuda", "simt"};
    if (b->backend)
        return add_meant(b, word, b->backend)
                   ? 0
                   : cli_fail(b->command, "expected a kernel of back end %s, found '%s'", b->backend, word);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (add_meant(b, word, others[i]))
            return 0;
    return 0; /* not reached: the names have been checked */
}

static void add_defaults(bench *b, const char *backend)
{
    msa_ops ops;
    if (!table_ops(backend, &ops))
        return;
    for (int stage = 0; stage < MSA_N_STAGES; stage++)
        if (strcmp(ops.stage[stage]->backend, backend) == 0)
            add(b, ops.stage[stage]);
}

static int choose_kernels(bench *b)
{
    msa_ops ops;
    int bad = case_check_names(b->command, &b->names);
    if (!bad && b->backend && !table_ops(b->backend, &ops))
        bad = cli_fail(b->command, "--backend: expected %s (this build has no other), found '%s'",
                       table_backends(), b->backend);
    for (int i = 0; i < b->names.n && !bad; i++)
        bad = add_word(b, b->names.item[i]);
    if (!bad && b->names.n == 0)
        add_defaults(b, b->backend ? b->backend : "fast");
    if (bad)
        return bad;
    b->device = table_device(b->kernel[0]->backend);
    for (int i = 0; i < b->n_kernels; i++) {
        const char *backend = b->kernel[i]->backend;
        if (table_missing(backend))
            return cli_fail(b->command, "back end %s: expected a GPU, found %s", backend,
                            table_missing(backend));
        if (table_device(backend) != b->device)
            return cli_fail(b->command, "expected kernels of one device, found %s and %s (--backend chooses)",
                            b->kernel[0]->backend, backend);
        if (b->half && (strcmp(backend, "fast") != 0 || !stage_is_step(b->kernel[i]->stage)))
            return cli_fail(b->command,
                            "--bf16-keys: expected decode or dense_decode on fast, found %s/%s on %s",
                            msa_stage_name(b->kernel[i]->stage), b->kernel[i]->name, backend);
    }
    return 0;
}

/* ---- Which shape ----------------------------------------------------------------------------------- */

/* The heads of MiniMax-M3, a prompt of 4096 tokens; the engine runs a thousandth as fast, and gets less. */
static msa_shape usual_shape(const bench *b)
{
    if (b->device && strcmp(b->device->name, "simt") == 0)
        return (msa_shape){64, 64, 16, 1, 128, 128, 32, 2, 1, NULL, NULL, NULL, NULL};
    return (msa_shape){4096, 4096, 64, 4, 128, 128, 128, 16, 1, NULL, NULL, NULL, NULL};
}

/* Sequences of equal lengths. */
static int cut_sequences(const bench *b, msa_shape *s)
{
    const int n = s->n_seqs;
    if (s->n_q % n || s->n_kv % n || s->n_kv > INT32_MAX)
        return cli_fail(b->command, "--shape: expected T and S that %d sequences can share, found '%s'", n,
                        b->shape);
    int32_t *cu = cli_alloc(b->command, 2 * ((size_t)n + 1) * sizeof *cu);
    for (int i = 0; cu && i <= n; i++) {
        cu[i] = (int32_t)(s->n_q / n * i);
        cu[n + 1 + i] = (int32_t)(s->n_kv / n * i);
    }
    s->cu_q = cu;
    s->cu_kv = cu + n + 1;
    return cu ? 0 : 2;
}

static int choose_shape(const bench *b, msa_shape *s, int32_t **owned)
{
    *s = usual_shape(b);
    *owned = NULL;
    int bad = b->shape ? case_read_shape(b->command, b->shape, s) : 0;
    if (!bad && s->n_seqs > 1 && !s->cu_q) {
        bad = cut_sequences(b, s);
        *owned = bad ? NULL : (int32_t *)(uintptr_t)s->cu_q;
    }
    const msa_status status = bad ? MSA_OK : msa_check_shape(s);
    if (status != MSA_OK)
        return cli_fail(b->command, "--shape: expected a valid shape, found '%s': %s", b->shape,
                        msa_strerror(status));
    return bad;
}

/* ---- What a run does ------------------------------------------------------------------------------- */

static msa_status describe(subject *t, result *r)
{
    int32_t *ids = NULL;
    msa_status status = subject_screening(t);
    status = status == MSA_OK ? useful_ids(t, &ids) : status;
    if (status != MSA_OK) {
        free(ids);
        return status;
    }
    r->screening = t->screening;
    r->copy_ms = t->copy_ms;
    r->flops = useful_flops(t, ids);
    r->bytes = moved_bytes(t, ids);
    r->union8 = ids ? selection_union8(t->s, ids) : 0;
    r->distribution = HAS(t->in, ARRAY_IDS) ? selection_name(t->kind) : NULL;
    r->lse = HAS(t->out, ARRAY_LSE) || HAS(t->out, ARRAY_INDEX_LSE);
    free(ids);
    return MSA_OK;
}

/* ---- One kernel ------------------------------------------------------------------------------------ */

/* As sample_judge says: MSA_ERR_SIZE where there was no memory to judge. */
static msa_status judge(subject *t, const char *when, bool *pass)
{
    const sample_verdict v = sample_judge(t);
    *pass = v.pass;
    if (v.no_memory)
        return MSA_ERR_SIZE;
    printf("%s/%s (%s) %s: ", msa_stage_name(t->kernel->stage), t->kernel->name, t->kernel->backend, when);
    if (v.pass)
        printf("ok, %.1f%% of the error budget; %lld of %lld queries judged", 100 * v.used,
               (long long)v.n_judged, (long long)v.n_queries);
    else
        printf("FAILED: %s", v.text);
    if (v.n_ties)
        printf("; %lld of %lld ids swapped within rounding", (long long)v.n_ties, (long long)v.n_ids);
    printf("; seed %lld\n", (long long)t->seed);
    fflush(stdout);
    return MSA_OK;
}

static const char *trouble(const subject *t, msa_status status)
{
    return status == MSA_ERR_DEVICE ? table_trouble(t->kernel)
           : status == MSA_ERR_SIZE ? "no memory for this shape"
                                    : msa_strerror(status);
}

/* Whether there was a verdict and, if it was good, a time. */
static msa_status time_it(const bench *b, subject *t, result *r)
{
    if (t->lse && t->kernel->stage == MSA_STAGE_INDEX && !HAS(t->out, ARRAY_INDEX_LSE))
        printf("index/%s (%s) writes no log-sum-exp\n", t->kernel->name, t->kernel->backend);
    /* [time_it] */
    msa_status status = judge(t, "before timing", &r->verified);
    if (status != MSA_OK || !r->verified)
        return status;
    status = timing_of(t, b->seconds, cli_progress, &r->time);
    cli_progress_end();
    if (status == MSA_OK)
        status = describe(t, r);
    return status == MSA_OK ? judge(t, "after timing", &r->verified) : status;
    /* [time_it] */
}

/* The first kernel refused is named; the others of a stage may take the shape. */
static int refuse(const bench *b, const subject *t, msa_status status)
{
    return cli_fail(b->command, "%s/%s on %s: expected a shape that it takes (%s), found: %s",
                    msa_stage_name(t->kernel->stage), t->kernel->name, t->kernel->backend,
                    t->kernel->constraints, trouble(t, status));
}

static subject subject_of(const bench *b, const msa_kernel *kernel, const msa_shape *s)
{
    return (subject){.kernel = kernel,
                     .s = s,
                     .lse = b->lse,
                     .kl = b->kl && kernel->stage == MSA_STAGE_BACKWARD,
                     .small = b->small,
                     .codes = b->codes,
                     .half = b->half,
                     .seed = (uint64_t)b->seed,
                     .kind = b->kind,
                     .cache = b->results.about.cache};
}

/* About how many seconds a run takes, from runs of the last few queries; 0 if there are not enough to tell.
 */
static double foresee(const bench *b, const msa_kernel *kernel, const msa_shape *s)
{
    const bool gpu = b->device && !b->results.on_cpu; /* which needs many queries to be at its speed */
    const int64_t few = gpu ? 1024 : 16, share = s->n_q / (gpu ? 16 : 256);
    msa_shape part = *s;
    timing found = {0};
    part.n_q = share > few ? share : few;
    part.n_kv = s->n_kv / msa_n_seqs(s);
    part.n_seqs = 1;
    part.cu_q = part.cu_kv = part.len_q = part.len_kv = NULL;
    if (part.n_q > s->n_q / msa_n_seqs(s) / 2)
        return 0;
    subject t = subject_of(b, kernel, &part);
    if (subject_open(&t) == MSA_OK && timing_of(&t, 1e-6, cli_progress, &found) != MSA_OK)
        found.min = 0;
    cli_progress_end();
    subject_close(&t);
    return 1e-3 * found.min * (double)s->n_q / (double)part.n_q;
}

#define LEAST_RUNS 6 /* the verdicts before and after, a warm-up, three repeats */

/* Whether there is time for this kernel; says how long it will take. */
static bool has_time(const bench *b, const msa_kernel *kernel, const msa_shape *s)
{
    const double seconds = foresee(b, kernel, s);
    const bool fits = LEAST_RUNS * seconds <= b->limit;
    if (seconds >= 0.1 || !fits)
        printf("%s/%s (%s): about %.2g s a run%s\n", msa_stage_name(kernel->stage), kernel->name,
               kernel->backend, seconds, fits ? "" : "; skipped: six are more than --limit");
    fflush(stdout);
    return fits;
}

/* What a fault of the machine is, and no verdict. */
static int fail(const bench *b, const subject *t, msa_status status)
{
    return cli_fail(b->command, "%s/%s on %s: expected it to be judged and timed, found: %s",
                    msa_stage_name(t->kernel->stage), t->kernel->name, t->kernel->backend,
                    trouble(t, status));
}

/* 0, 1 for a verdict that failed, 2 after an error line. *r tells whether there is a result. */
static int bench_kernel(const bench *b, const msa_kernel *kernel, const msa_shape *s, result *r)
{
    subject t = subject_of(b, kernel, s);
    int bad = 0;
    *r = (result){.shape = *s,
                  .kl = t.kl,
                  .small = b->small,
                  .half = b->half,
                  .engine = b->device && b->results.on_cpu};
    if (!has_time(b, kernel, s))
        return 0;
    msa_status status = subject_open(&t);
    if (status == MSA_OK) {
        r->kernel = kernel;
        status = time_it(b, &t, r);
        bad = status != MSA_OK ? fail(b, &t, status) : r->verified ? 0 : 1;
    } else if (status == MSA_ERR_UNSUPPORTED && b->n_kernels > 1)
        printf("%s/%s (%s) does not take this shape%s (%s)\n", msa_stage_name(kernel->stage), kernel->name,
               kernel->backend,
               b->small || b->codes ? ", or no 8-bit index keys"
               : t.kl               ? ", or no KL loss in its sweep"
                                    : "",
               kernel->constraints);
    else
        bad = refuse(b, &t, status);
    subject_close(&t);
    return bad;
}

/* ---- All of them ----------------------------------------------------------------------------------- */

static double longest(const results *all)
{
    double ms = 0;
    for (int i = 0; i < all->n; i++)
        ms = all->item[i].time.median > ms ? all->item[i].time.median : ms;
    return 1e-3 * ms;
}

/* As long as the longest kernel, within reason. */
static void find_ceilings(bench *b)
{
    const double wanted = longest(&b->results), least = b->seconds < 0.5 ? b->seconds : 0.5;
    const bool engine = b->device && b->results.on_cpu;
    if (engine || b->no_ceilings)
        return;
    b->results.ceilings = ceilings_of(b->device, wanted < least ? least : wanted < 5 ? wanted : 5);
    if ((b->device ? b->results.ceilings.bf16_tflops : b->results.ceilings.f32_tflops) <= 0)
        printf("no ceiling of a matrix product: %s\n", b->device
                                                           ? "libcublas could not be loaded (LD_LIBRARY_PATH "
                                                             "names the folders it is sought in), or failed"
                                                           : "no memory");
}

static int run(bench *b, const msa_shape *s)
{
    char name[INPUTS_NAME];
    int worst = 0;
    inputs_shape_name(s, name);
    printf("%s, ids %s, seed %lld\n", name, b->distribution, (long long)b->seed);
    int lost = cli_flush(b->command);
    for (int i = 0; i < b->n_kernels && !lost; i++) {
        msa_shape own = *s;
        if (stage_is_step(b->kernel[i]->stage) && !b->shape)
            own.n_q = 1; /* a step of generation */
        result *r = &b->results.item[b->results.n];
        const int bad = bench_kernel(b, b->kernel[i], &own, r);
        if (bad == 2)
            return 2;
        b->results.n += r->kernel != NULL;
        worst = bad > worst ? bad : worst;
        lost = cli_flush(b->command);
    }
    if (lost)
        return lost;
    if (b->results.n == 0)
        return cli_fail(b->command,
                        "--shape: expected one that a kernel here takes in the time of --limit, found '%s'",
                        name);
    find_ceilings(b);
    results_print(&b->results);
    if (b->json && results_write(b->command, b->json, &b->results))
        return 2;
    if (b->picture && results_draw(b->command, b->picture, &b->results))
        return 2;
    return worst;
}

static int check_json(const bench *b)
{
    if (!b->json)
        return 0;
    if (!results_have_json())
        return results_write(b->command, b->json, NULL);
    if (b->device && b->results.on_cpu)
        return cli_fail(b->command,
                        "--json: expected kernels on a CPU or a GPU, found the engine, whose times say "
                        "nothing about either");
    return cli_check_writable(b->command, "--json", b->json);
}

static int prepare(bench *b, msa_shape *s, int32_t **owned)
{
    int bad = choose_kernels(b);
    if (!bad)
        bad = case_read_distribution(b->command, b->distribution, &b->kind);
    b->small = strcmp(b->index_keys, "fp8") == 0;
    b->codes = strcmp(b->index_keys, "int8") == 0;
    if (!bad && !b->small && !b->codes && strcmp(b->index_keys, "bf16") != 0)
        bad = cli_fail(b->command, "--index-keys: expected bf16, fp8 or int8, found '%s'", b->index_keys);
    if (bad)
        return bad;
    b->results.on_cpu = !b->device || strcmp(b->device->name, "simt") == 0;
    if (b->device)
        b->device->about(&b->results.about);
    else
        b->results.about = timing_about_cpu();
    bad = choose_shape(b, s, owned);
    return bad ? bad : check_json(b);
}

int cmd_bench(int argc, char **argv)
{
    static bench b; /* zeroed, and too large for a stack frame */
    static result items[MAX_KERNELS];
    msa_shape s;
    int32_t *owned = NULL;
    b = (bench){.command = argv[0],
                .distribution = "random",
                .index_keys = "bf16",
                .seed = 1,
                .seconds = 10,
                .limit = 120};
    const cli_option options[] = {
        {"--shape", CLI_TEXT, &b.shape, 0, 0,
         "WORDS that name a shape, as in msa check; those left out are T=4096 S=4096 heads=64:4 "
         "width=128:128 block=128 topk=16 seqs=1 (the engine: a small one), and T=1 for decode"},
        {"--backend", CLI_TEXT, &b.backend, 0, 0,
         "NAME times its kernels: ref, fast, simt or cuda; no names: the best of each stage (default fast)"},
        CLI_OPT_SEED(b.seed),
        {"--distribution", CLI_TEXT, &b.distribution, 0, 0,
         "NAME of the ids for stages that take some: random, hot, local or structured"},
        {"--index-keys", CLI_TEXT, &b.index_keys, 0, 0,
         "KIND bf16 (the default); fp8: 8-bit ones, for decode on a device that takes them; int8: an exact "
         "8-bit copy beside them, made before, for kernels that screen by it"},
        {"--bf16-keys", CLI_FLAG, &b.half, 0, 0,
         "stores keys, values and index keys as bf16 for decode and dense_decode of the back end fast"},
        {"--kl", CLI_FLAG, &b.kl, 0, 0,
         "backward does the work of kl in the same sweep, where a kernel on a device can"},
        {"--lse", CLI_FLAG, &b.lse, 0, 0, "also writes the log-sum-exps, where they are optional"},
        {"--seconds", CLI_REAL, &b.seconds, 0.001, 3600, "S at most for the repeats of a kernel, 3 at least"},
        {"--limit", CLI_REAL, &b.limit, 0.001, 1e6,
         "S a kernel may take with its verdicts; one that would take longer is skipped"},
        {"--no-ceilings", CLI_FLAG, &b.no_ceilings, 0, 0,
         "leaves out how fast a matrix product and a copy are here"},
        {"--json", CLI_TEXT, &b.json, 0, 0, "F receives the results"},
        {"--picture", CLI_TEXT, &b.picture, 0, 0, "F.svg or F.png receives a bar a kernel"},
        {0}};
    b.results = (results){.argc = argc, .argv = argv, .item = items};
    int status = cli_parse(argc, argv, options, &b.names);
    if (!status)
        status = prepare(&b, &s, &owned);
    if (!status)
        status = run(&b, &s);
    free(owned);
    return status;
}
