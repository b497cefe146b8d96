/* msa tune: measures the parameters of cuda/tunables.def on a device, one after the other, and keeps the best. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../bench/sample.h"
#include "../bench/timing.h"
#include "../table/table.h"
#include "cases.h"
#include "tuning.h"

#define MAX_TRIALS 4
#define GAIN 0.99  /* of the preset's time that another value may take: what is nearer may be noise */
#define LAST_TRY 2 /* what was begun twice and never ended may be what stops the machine */

typedef struct tune {
    const char *command, *backend, *out;
    cli_list names;
    double budget, seconds;
    const msa_device *device;
    char path[PATH_MAX];
    tuning kept;
    double start, longest; /* seconds: of the clock; that a value took, with its inputs */
    int n_left, failed;
} tune;

/* A parameter's trials, with their inputs where they run. */
typedef struct trials {
    int n;
    subject subject[MAX_TRIALS];
    msa_shape shape[MAX_TRIALS];
} trials;

/* ---- One value -------------------------------------------------------------------------------------------- */

static msa_status judge(subject *t, bool *verified)
{
    const sample_verdict v = sample_judge(t);
    if (!v.pass && !v.no_memory)
        printf("  FAILED: %s; seed %lld\n", v.text, (long long)t->seed);
    *verified = *verified && v.pass;
    return v.no_memory ? MSA_ERR_SIZE : MSA_OK;
}

static msa_status time_trial(const tune *u, subject *t, tuning_entry *e)
{
    timing found = {0};
    msa_status status = subject_plan(t);
    if (status == MSA_OK)
        status = judge(t, &e->verified);
    if (status == MSA_OK && e->verified)
        status = timing_of(t, u->seconds, cli_progress, &found);
    cli_progress_end();
    if (status == MSA_OK && e->verified)
        status = judge(t, &e->verified);
    e->ms += found.median;
    return status;
}

/* The file says that it begins, and then what came of it. */
static int measure(tune *u, trials *all, tuning_entry *e)
{
    const msa_tunable *p = &msa_tunables[e->parameter];
    msa_status status = MSA_OK;
    int bad = tuning_write(u->command, u->path, &u->kept);
    if (bad)
        return bad;
    msa_tune(u->device, e->parameter, e->value);
    e->verified = true;
    for (int i = 0; i < all->n && status == MSA_OK && e->verified; i++)
        status = time_trial(u, &all->subject[i], e);
    if (status == MSA_OK && e->verified)
        printf("%-20s %7d %12.4g ms\n", p->name, e->value, e->ms);
    else {
        e->verified = false;
        e->ms = 0;
        e->begun = LAST_TRY;
        printf("%-20s %7d  %s\n", p->name, e->value,
               status == MSA_OK           ? "WRONG"
               : status == MSA_ERR_DEVICE ? u->device->trouble()
                                          : "no memory for it");
        u->failed += status == MSA_OK;
    }
    bad = tuning_write(u->command, u->path, &u->kept);
    if (!bad && status == MSA_ERR_DEVICE)
        bad =
            cli_fail(u->command, "%s = %d: expected it to run, found: %s; the same command goes on behind it",
                     p->name, e->value, u->device->trouble());
    return bad;
}

/* ---- One parameter ---------------------------------------------------------------------------------------- */

static void close_trials(trials *all)
{
    for (int i = 0; i < all->n; i++)
        subject_close(&all->subject[i]);
    all->n = 0;
}

/* False where the device has no kernel or no memory for one: a line says so. */
static int open_trials(const tune *u, int parameter, trials *all, bool *open)
{
    msa_about about;
    u->device->about(&about);
    *open = true;
    all->n = 0;
    for (const msa_trial *of = msa_trials; of->kernel && *open; of++) {
        if (of->parameter != parameter || all->n == MAX_TRIALS)
            continue;
        const int i = all->n;
        subject *t = &all->subject[i];
        *t = (subject){.kernel = table_find(of->kernel, u->backend),
                       .s = &all->shape[i],
                       .kl = strcmp(of->also, "kl") == 0,
                       .codes = strcmp(of->also, "int8") == 0,
                       .seed = 1,
                       .cache = about.cache};
        all->shape[i] = case_usual_shape(u->device);
        int bad =
            case_read_shape(u->command, u->device == msa_engine() ? of->small : of->shape, &all->shape[i]);
        if (!bad)
            bad = case_read_distribution(u->command, of->ids, &t->kind);
        if (bad)
            return bad;
        all->n++;
        *open = strcmp(t->kernel->backend, u->backend) == 0 && subject_open(t) == MSA_OK;
        if (!*open)
            printf("%-20s left out: %s does not run here at %s\n", msa_tunables[parameter].name, of->kernel,
                   of->shape);
    }
    return 0;
}

static tuning_entry *find_entry(tuning *t, int parameter, int value)
{
    for (int i = 0; i < t->n; i++)
        if (t->entry[i].parameter == parameter && t->entry[i].value == value)
            return &t->entry[i];
    return NULL;
}

/* One that begins. */
static tuning_entry *begin_entry(tuning *t, int parameter, int value)
{
    tuning_entry *e = find_entry(t, parameter, value);
    if (!e) {
        e = &t->entry[t->n++];
        *e = (tuning_entry){.parameter = parameter, .value = value};
    }
    e->begun++;
    return e;
}

/* The best that is known, and the time it takes beside the preset's. */
static void settle(tune *u, int parameter)
{
    const int preset = msa_tune_preset(u->device, parameter);
    double first = 0, best = 0;
    u->kept.value[parameter] = preset;
    for (int i = 0; i < u->kept.n; i++) {
        const tuning_entry *e = &u->kept.entry[i];
        if (e->parameter == parameter && e->value == preset && e->verified)
            first = best = e->ms;
    }
    for (int i = 0; i < u->kept.n; i++) {
        const tuning_entry *e = &u->kept.entry[i];
        if (e->parameter == parameter && e->verified && e->ms > 0 && e->ms < GAIN * first && e->ms < best)
            best = e->ms, u->kept.value[parameter] = e->value;
    }
    msa_tune(u->device, parameter, u->kept.value[parameter]);
    if (best < first)
        printf("%-20s %7d is kept in place of %d: %.1f %% less time\n", msa_tunables[parameter].name,
               u->kept.value[parameter], preset, 100 * (1 - best / first));
}

static int tune_parameter(tune *u, int parameter, trials *all)
{
    const msa_tunable *p = &msa_tunables[parameter];
    int value[1 + sizeof p->tries / sizeof *p->tries] = {msa_tune_preset(u->device, parameter)};
    int n = 1, bad = 0;
    bool open = false, here = true;
    for (size_t i = 0; i < sizeof p->tries / sizeof *p->tries && p->tries[i]; i++)
        value[n++] = p->tries[i];
    for (int i = 0; i < n && here && !bad; i++) {
        const tuning_entry *e = find_entry(&u->kept, parameter, value[i]);
        if (e && e->ms <= 0 && e->begun >= LAST_TRY)
            printf("%-20s %7d  passed over: it was wrong, or stopped twice; without %s it is tried again\n",
                   p->name, value[i], u->path);
        if (e && (e->ms > 0 || e->begun >= LAST_TRY))
            continue;
        const double start = timing_now();
        if (start - u->start + u->longest >= u->budget) {
            u->n_left++;
            continue;
        }
        if (!open)
            bad = open_trials(u, parameter, all, &here);
        open = true;
        if (here && !bad)
            bad = measure(u, all, begin_entry(&u->kept, parameter, value[i]));
        u->longest = fmax(u->longest, timing_now() - start);
    }
    close_trials(all);
    settle(u, parameter);
    return bad ? bad : cli_flush(u->command);
}

/* ---- The command ------------------------------------------------------------------------------------------ */

static bool wanted(const tune *u, int parameter)
{
    for (int i = 0; i < u->names.n; i++)
        if (strcmp(u->names.item[i], msa_tunables[parameter].name) == 0)
            return true;
    return u->names.n == 0;
}

static void list(const tune *u)
{
    for (int i = 0; i < MSA_N_TUNABLES; i++) {
        const msa_tunable *p = &msa_tunables[i];
        if (wanted(u, i))
            printf("%s: %d, of %d to %d\n  %s\n", p->name, p->preset, p->least, p->most, p->reason);
    }
}

static int check_names(const tune *u)
{
    for (int n = 0; n < u->names.n; n++) {
        int i = 0;
        while (i < MSA_N_TUNABLES && strcmp(u->names.item[n], msa_tunables[i].name) != 0)
            i++;
        if (i == MSA_N_TUNABLES)
            return cli_fail(u->command, "expected a parameter that 'msa tune --list' names, found '%s'",
                            u->names.item[n]);
    }
    return 0;
}

/* The device, and the file with what is known of it. */
static int prepare(tune *u)
{
    io_error err;
    u->device = table_device(u->backend);
    if (!u->device)
        return cli_fail(u->command, "--backend: expected cuda or simt, and a build that has it, found '%s'",
                        u->backend);
    if (u->device->missing())
        return cli_fail(u->command, "--backend %s: expected a GPU, found %s", u->backend,
                        u->device->missing());
    if (!tuning_possible())
        return tuning_write(u->command, "", NULL);
    if (!u->out && u->device == msa_engine())
        return cli_fail(u->command,
                        "--out: expected FILE for the engine, whose times say nothing of a GPU, found none");
    if (u->out)
        snprintf(u->path, sizeof u->path, "%s", u->out);
    else if (!tuning_path(u->device, u->path))
        return cli_fail(u->command,
                        "--out: expected FILE where neither XDG_CACHE_HOME nor HOME is set, found none");
    int bad = u->out ? cli_check_writable(u->command, "--out", u->out) : 0;
    if (bad)
        return bad;
    tuning_begin(u->device, &u->kept);
    if (access(u->path, F_OK) != 0)
        return 0;
    tuning found;
    const bool read = tuning_read(u->path, u->device, &found, err);
    if (!read && u->out)
        return cli_fail(u->command, "--out %s", err);
    if (read && strcmp(found.build, u->kept.build) == 0)
        u->kept = found;
    else
        printf("%s is begun anew: it is %s\n", u->path, read ? "of another build" : "damaged");
    return 0;
}

static void print_kept(const tune *u)
{
    int n = 0;
    for (int i = 0; i < MSA_N_TUNABLES; i++)
        n += u->kept.value[i] != msa_tune_preset(u->device, i);
    printf("%d of %d parameters are not their presets%s", n, MSA_N_TUNABLES, n ? ":" : "");
    for (int i = 0; i < MSA_N_TUNABLES; i++)
        if (u->kept.value[i] != msa_tune_preset(u->device, i))
            printf(" %s %d", msa_tunables[i].name, u->kept.value[i]);
    printf("\n");
}

static int run(tune *u)
{
    static trials all; /* too large for a stack */
    int bad = 0;
    u->start = timing_now();
    printf("%s, %s\n", u->kept.device, u->path);
    if (u->device == msa_engine())
        printf("a rehearsal: the engine's times say nothing of a GPU\n");
    for (int i = 0; i < MSA_N_TUNABLES && !bad; i++)
        if (wanted(u, i))
            bad = tune_parameter(u, i, &all);
    if (!bad)
        bad = tuning_write(u->command, u->path, &u->kept);
    if (bad)
        return bad;
    if (u->n_left)
        printf("left: %d values, for which --budget %g had no time; the same command goes on\n", u->n_left,
               u->budget);
    else
        print_kept(u);
    return u->failed ? 1 : 0;
}

int cmd_tune(int argc, char **argv)
{
    static tune u; /* too large for a stack */
    bool only_list = false;
    u = (tune){.command = argv[0], .backend = "cuda", .budget = 300, .seconds = 1};
    const cli_option options[] = {
        {"--backend", CLI_TEXT, &u.backend, 0, 0,
         "NAME of the device: cuda, or simt as a rehearsal on small shapes"},
        {"--budget", CLI_REAL, &u.budget, 0, 1e6, "S after which no other value is begun"},
        {"--seconds", CLI_REAL, &u.seconds, 0.001, 3600, "S at most for the repeats of a trial, 3 at least"},
        {"--out", CLI_TEXT, &u.out, 0, 0,
         "FILE.json that keeps what was found (default $XDG_CACHE_HOME/msa/tuned-DEVICE.json, where later "
         "runs on this "
         "device find it; they take another from the environment: MSA_TUNING=FILE.json, or empty for none)"},
        {"--list", CLI_FLAG, &only_list, 0, 0,
         "prints the parameters, their presets and reasons, and measures nothing"},
        {0}};
    int status = cli_parse(argc, argv, options, &u.names);
    if (!status && only_list)
        status = cli_check_alone(argc, argv, options, "--list", NULL);
    if (!status)
        status = check_names(&u);
    if (!status && only_list) {
        list(&u);
        return 0;
    }
    if (!status)
        status = prepare(&u);
    return status ? status : run(&u);
}
