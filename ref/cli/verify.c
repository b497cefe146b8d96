/* msa verify: judges the block ids, and the output, that another implementation computed; without ids, the output of
 * dense attention.
 *
 * Every row of ids is a question of its own, whose answer does not depend on how the rows are laid out or
 * ordered. Blocks of equal score may be swapped freely, since nobody has published a rule for ties; blocks
 * whose scores differ by less than float32 rounding may be swapped once in a thousand ids. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "foreign.h"
#include "precision.h"
#include "../internal.h"
#include "../judge/verdict.h"

#define SHOWN_ROWS 5
#define SHOWN_IDS 32
#define EQUAL 1e-6 /* of what float32 rounding may swap: scores that are equal but for double's rounding */

typedef struct place {
    int r;
    int64_t i;
} place;

/* The judgement of all ids in one layout. */
typedef struct tally {
    foreign_order order;
    int64_t n_ids, n_ties, n_near_ties, n_wrong_rows;
    place wrong[SHOWN_ROWS];
} tally;

typedef struct verify {
    const char *command, *path, *layout;
    cli_tensors t;
    foreign_ids theirs;
    precision_request output;
    int32_t *ids;             /* [k] of one row, in our convention */
    double *score, *rounding; /* [B] of one row */
    void *work;
} verify;

/* Group r of query i as a call with a single head, and the index keys of its sequence. */
static msa_shape row_shape(const verify *v, int64_t i, const float **ki)
{
    msa_seq seq;
    msa_shape row = query_shape(&v->t.shape, i, &seq);
    row.n_heads = row.n_kv_heads = 1;
    *ki = cli_floats(&v->t, CLI_KI) + seq.kv0 * row.d_index;
    return row;
}

static const float *row_query(const verify *v, int r, int64_t i)
{
    const msa_shape *s = &v->t.shape;
    return cli_floats(&v->t, CLI_QI) + (i * s->n_kv_heads + r) * s->d_index;
}

/* ---- The ids ------------------------------------------------------------------------------------ */

static int judge_row(verify *v, int r, int64_t i, tally *sum)
{
    const float *qi = row_query(v, r, i), *ki;
    const msa_shape row = row_shape(v, i, &ki);
    const int32_t *found = foreign_row(&v->theirs, &v->t.shape, r, i);
    foreign_sort(found, row.topk, v->ids);
    bool ok, ok_equal = true;
    verdict_selection judged = verdict_ids(&row, qi, ki, v->ids, 1, 1, &ok), equal = {0};
    if (judged.n_ties > 0)
        equal = verdict_ids(&row, qi, ki, v->ids, EQUAL, 1, &ok_equal);
    if (!ok || !ok_equal)
        return cli_fail(v->command, "no memory to judge a row of ids");
    sum->n_ids += judged.n_ids;
    sum->n_ties += equal.n_ties;
    sum->n_near_ties += judged.n_ties - equal.n_ties;
    if (judged.n_wrong > 0) {
        if (sum->n_wrong_rows < SHOWN_ROWS)
            sum->wrong[sum->n_wrong_rows] = (place){r, i};
        sum->n_wrong_rows++;
    }
    if (sum->order.by_score)
        verdict_score_blocks(&row, qi, ki, row.n_kv - 1, v->score, v->rounding);
    foreign_note_order(&sum->order, found, row.topk, v->score, v->rounding, (row.n_kv - 1) / row.block);
    return 0;
}

static int judge_ids(verify *v, tally *sum)
{
    const msa_shape *s = &v->t.shape;
    *sum = (tally){.order = {true, true, true, true}};
    int bad = 0;
    for (int64_t i = 0; i < s->n_q && !bad; i++) {
        for (int r = 0; r < s->n_kv_heads && !bad; r++)
            bad = judge_row(v, r, i, sum);
        cli_progress(v->command, i + 1, s->n_q, "ids");
    }
    cli_progress_end();
    return bad;
}

/* Where T = Hkv the sizes allow both layouts; the one with fewer wrong rows was meant. */
static int judge_layouts(verify *v, tally *sum)
{
    tally other;
    int bad = judge_ids(v, sum);
    if (bad || !v->theirs.ambiguous || sum->n_wrong_rows == 0)
        return bad;
    v->theirs.token_major = true;
    bad = judge_ids(v, &other);
    v->theirs.token_major = other.n_wrong_rows < sum->n_wrong_rows;
    if (v->theirs.token_major)
        *sum = other;
    return bad;
}

static void print_ids(const int32_t *ids, int k)
{
    for (int slot = 0; slot < k && slot < SHOWN_IDS; slot++)
        printf(" %d", ids[slot]);
    printf("%s", k > SHOWN_IDS ? " ..." : "");
}

static void print_wrong_row(const verify *v, place at)
{
    const float *ki;
    const msa_shape row = row_shape(v, at.i, &ki);
    msa_index(&row, row_query(v, at.r, at.i), ki, NULL, v->ids, NULL, v->work);
    printf("  group %d, query %lld: expected", at.r, (long long)at.i);
    print_ids(v->ids, row.topk);
    printf(", found");
    print_ids(foreign_row(&v->theirs, &v->t.shape, at.r, at.i), row.topk);
    printf("\n");
}

static bool report_ids(const verify *v, const tally *sum)
{
    const foreign_order *o = &sum->order;
    const int64_t rows = v->t.shape.n_q * v->t.shape.n_kv_heads;
    const bool pass = sum->n_wrong_rows == 0 && sum->n_near_ties <= (sum->n_ids + 999) / 1000;
    printf("layout  %s (%s)\n", v->theirs.token_major ? "[T,Hkv,k]" : "[Hkv,T,k]",
           v->layout             ? "as given"
           : v->theirs.ambiguous ? "the sizes allow both, this one fits better or as well"
                                 : "by the sizes");
    printf("order   %s; local block %s\n",
           o->ascending  ? "ascending"
           : o->by_score ? "falling score"
                         : "neither ascending nor by score",
           o->local_last    ? "last"
           : o->local_first ? "first"
                            : "anywhere");
    printf("ids     %s: %lld of %lld rows wrong\n", pass ? "ok" : "FAILED", (long long)sum->n_wrong_rows,
           (long long)rows);
    printf("ties    of %lld ids %lld swapped for an equal score, %lld for one within float32 rounding\n",
           (long long)sum->n_ids, (long long)sum->n_ties, (long long)sum->n_near_ties);
    for (int i = 0; i < SHOWN_ROWS && i < sum->n_wrong_rows; i++)
        print_wrong_row(v, sum->wrong[i]);
    return pass;
}

/* ---- The command -------------------------------------------------------------------------------- */

/* A kernel that takes bf16 rounds what is not, and is then right about other tensors than these. */
static void print_hint(const verify *v)
{
    static const cli_tensor read[] = {CLI_Q, CLI_K, CLI_V, CLI_QI, CLI_KI};
    const verdict_store bf16 = {8, -126};
    for (int i = 0; i < 5; i++) {
        const npy_array *x = &v->t.array[read[i]];
        if (v->t.path[read[i]] && !verdict_is_stored(x->data, x->count, &bf16)) {
            printf("note    %s holds more than bf16 does: what a kernel that takes bf16 makes of it is to be "
                   "judged "
                   "by the rounded tensor\n",
                   v->t.path[read[i]]);
            return;
        }
    }
}

static int judge(verify *v)
{
    tally sum;
    int bad = v->path ? judge_layouts(v, &sum) : 0;
    if (bad)
        return bad;
    bool pass = !v->path || report_ids(v, &sum);
    if (v->t.path[CLI_O]) {
        precision_result result;
        bad = precision_judge(v->command, &v->output, &v->t, v->path ? &v->theirs : NULL, &result);
        if (bad)
            return bad;
        precision_print(&v->output, v->t.shape.n_q, &result);
        pass = pass && result.pass;
    }
    if (!pass)
        print_hint(v);
    printf("%s\n", pass ? "ok" : "FAILED");
    return pass ? 0 : 1;
}

static int run(verify *v)
{
    const msa_shape *s = &v->t.shape;
    const size_t blocks = (size_t)msa_n_blocks(s);
    v->ids = cli_alloc(v->command, (size_t)s->topk * sizeof *v->ids);
    v->score = v->ids ? cli_alloc(v->command, 2 * blocks * sizeof *v->score) : NULL;
    v->rounding = v->score ? v->score + blocks : NULL;
    v->work = v->score ? cli_alloc(v->command, msa_ref_ops.stage[MSA_STAGE_INDEX]->workspace(s)) : NULL;
    int status = v->work ? judge(v) : 2;
    free(v->ids);
    free(v->score);
    free(v->work);
    return status;
}

/* The first of some options whose presence is not `present`, with what it is to have to do with `with`. */
static int check_present(const verify *v, const cli_tensor *which, int n, bool present, const char *with)
{
    static const char *const name[CLI_N_TENSORS] = {
        [CLI_Q] = "--q", [CLI_K] = "--k", [CLI_V] = "--v", [CLI_QI] = "--qi", [CLI_KI] = "--ki"};
    for (int i = 0; i < n; i++)
        if (present != (v->t.path[which[i]] != NULL))
            return present
                       ? cli_fail(v->command, "%s: expected this option with %s, found none", name[which[i]],
                                  with)
                       : cli_fail(v->command, "%s: expected %s with it, found none", name[which[i]], with);
    return 0;
}

static int check_options(const verify *v)
{
    static const cli_tensor main_branch[] = {CLI_Q, CLI_K, CLI_V}, index_branch[] = {CLI_QI, CLI_KI};
    if (!v->path && !v->t.path[CLI_O])
        return cli_fail(v->command, "--ids: expected this option, or --o of dense attention, found neither");
    if (!v->path && (v->layout || v->t.topk))
        return cli_fail(v->command, "%s: expected --ids with it, found none",
                        v->layout ? "--layout" : "--topk");
    int bad = check_present(v, index_branch, 2, v->path != NULL, "--ids");
    if (!bad && v->t.path[CLI_O])
        bad = check_present(v, main_branch, 3, true, "--o");
    if (!bad && !v->t.path[CLI_O] && (v->output.name || v->output.tolerance >= 0))
        bad = cli_fail(v->command, "--o: expected this option with --%s, found none",
                       v->output.name ? "precision" : "tolerance");
    return bad ? bad : precision_check(v->command, &v->output);
}

/* Dense attention chooses every block. */
static int read_dense(verify *v)
{
    const int bad = cli_read_tensors(v->command, &v->t);
    v->t.shape.topk = (int)msa_n_blocks(&v->t.shape);
    return bad;
}

int cmd_verify(int argc, char **argv)
{
    verify v = {.command = argv[0], .t = {.block = 128}, .output = {NULL, -1}};
    const cli_option options[] = {
        {"--ids", CLI_TEXT, &v.path, 0, 0,
         "F their block ids, in any order, then -1 (without: dense attention)"},
        CLI_OPT_QI(v.t, CLI_TEXT),
        CLI_OPT_KI(v.t, CLI_TEXT),
        CLI_OPT_PACKED(v.t),
        CLI_OPT_BLOCK(v.t),
        CLI_OPT_TOPK(v.t),
        {"--layout", CLI_TEXT, &v.layout, 0, 0,
         "htk|thk of --ids: [Hkv,T,k] or [T,Hkv,k]; found out if not given"},
        {"--o", CLI_TEXT, &v.t.path[CLI_O], 0, 0, "F their output [T,Hq,dh], judged given their ids"},
        CLI_OPT_Q(v.t, CLI_TEXT),
        CLI_OPT_K(v.t, CLI_TEXT),
        CLI_OPT_V(v.t, CLI_TEXT),
        {"--precision", CLI_TEXT, &v.output.name, 0, 0,
         "NAME that --o has to meet: " PRECISION_NAMES "; if not given, any of them"},
        {"--tolerance", CLI_REAL, &v.output.tolerance, 0, 1,
         "X error of --o allowed instead, relative to the largest value of a row"},
        {0}};
    int status = cli_parse(argc, argv, options, NULL);
    if (!status)
        status = check_options(&v);
    if (!status)
        status = v.path ? foreign_read(argv[0], v.path, v.layout, &v.t, &v.theirs) : read_dense(&v);
    if (!status)
        status = run(&v);
    npy_free(&v.theirs.array);
    cli_free_tensors(&v.t);
    return status;
}
