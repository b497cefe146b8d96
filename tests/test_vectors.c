/* The public test vectors in data/vectors: computes every case again and compares it with the files there.
 * With "--write DIR" it writes them instead; that is how they were made.
 *
 * Inputs are rounded to bf16, so that a kernel of any precision gets the same numbers. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../ref/cli/cli.h"
#include "../ref/judge/verdict.h"
#include "support/tap.h"

#define WHERE "data/vectors"
#define ME "test_vectors"
#define SEED 2606 /* plus the number of the case */
#define MAX_FILE (1 << 22)

typedef struct vector_case {
    const char *name;
    msa_shape shape;
    inputs_pattern pattern;
    const char *why;
} vector_case;

/* clang-format off */
static const vector_case cases[] = {
    /*            T   S  Hq Hkv  dh   di Bk k */
    {"tiny",    { 8,  8,  2, 1,   4,   4, 2, 2, 1, NULL, NULL, NULL, NULL}, INPUTS_NORMAL,
     "small enough to follow by hand"},
    {"prefix",  {13, 45,  4, 2,  16,   8, 8, 3, 1, NULL, NULL, NULL, NULL}, INPUTS_NORMAL,
     "T < S: 32 cached tokens, a partial last block, di < dh"},
    {"decode",  { 1, 61,  4, 2,  16,  16, 8, 3, 1, NULL, NULL, NULL, NULL}, INPUTS_PEAKED,
     "one new token, peaked softmax"},
    {"dense",   {40, 40,  4, 2,  16,  16, 8, 8, 1, NULL, NULL, NULL, NULL}, INPUTS_NORMAL,
     "k exceeds the number of blocks: equals dense attention, ids end in -1"},
    {"ties",    {48, 48,  4, 2,   8,   8, 4, 4, 1, NULL, NULL, NULL, NULL}, INPUTS_TIES,
     "small integers, whole blocks tie: the lower id wins"},
    {"group1",  {33, 33,  3, 3,   7,   5, 4, 3, 1, NULL, NULL, NULL, NULL}, INPUTS_NORMAL,
     "Hq = Hkv, odd widths"},
    {"block1",  {19, 19,  4, 2,   8,  12, 1, 4, 1, NULL, NULL, NULL, NULL}, INPUTS_NORMAL,
     "a block is a single token, di > dh"},
    {"local",   {23, 30,  4, 1,   8,   8, 7, 1, 1, NULL, NULL, NULL, NULL}, INPUTS_NORMAL,
     "k = 1: the local block alone"},
    {"m3heads", { 2, 60, 64, 4, 128, 128, 8, 4, 1, NULL, NULL, NULL, NULL}, INPUTS_NORMAL,
     "64 query and 4 KV heads of 128, as in MiniMax-M3"},
};
/* clang-format on */
#define N_CASES (sizeof cases / sizeof *cases)

enum { Q, K, V, QI, KI, DOUT, IDS, O, LSE, INDEX_LSE, SCORES, DQ, DK, DV, DQI, DKI, N_FILES };

static const cli_output files[N_FILES] = {
    [Q] = {"q.npy", NPY_F32, "THd", NULL},           [K] = {"k.npy", NPY_F32, "SGd", NULL},
    [V] = {"v.npy", NPY_F32, "SGd", NULL},           [QI] = {"qi.npy", NPY_F32, "TGi", NULL},
    [KI] = {"ki.npy", NPY_F32, "Si", NULL},          [DOUT] = {"dout.npy", NPY_F32, "THd", NULL},
    [IDS] = {"ids.npy", NPY_I32, "GTk", NULL},       [O] = {"o.npy", NPY_F32, "THd", NULL},
    [LSE] = {"lse.npy", NPY_F32, "TH", NULL},        [INDEX_LSE] = {"index_lse.npy", NPY_F32, "GT", NULL},
    [SCORES] = {"scores.npy", NPY_F32, "GTB", NULL}, [DQ] = {"dq.npy", NPY_F32, "THd", NULL},
    [DK] = {"dk.npy", NPY_F32, "SGd", NULL},         [DV] = {"dv.npy", NPY_F32, "SGd", NULL},
    [DQI] = {"dqi.npy", NPY_F32, "TGi", NULL},       [DKI] = {"dki.npy", NPY_F32, "Si", NULL},
};

static void die(const char *what)
{
    tap_note("%s", what);
    exit(2);
}

/* ---- Computing ---------------------------------------------------------------------------------- */

static void round_inputs(const float *from, const msa_shape *s, cli_output *to)
{
    int64_t dim[IO_MAX_DIMS], n = cli_sizes(s, to->sizes, dim);
    for (int64_t i = 0; i < n; i++)
        ((float *)to->data)[i] = msa_bf16(from[i]);
}

static void draw_inputs(const vector_case *c, uint64_t seed, cli_output *f)
{
    inputs in;
    if (!inputs_new(&in, &c->shape, c->pattern, seed))
        die("no memory for the inputs");
    const float *const from[] = {in.q, in.k, in.v, in.qi, in.ki, in.dout};
    for (int t = Q; t <= DOUT; t++)
        round_inputs(from[t], &c->shape, &f[t]);
    inputs_free(&in);
}

/* Every output of one case; returns L_KL. */
static double compute(const vector_case *c, cli_output *f)
{
    const msa_shape *s = &c->shape;
    void *work = cli_alloc(ME, msa_workspace(NULL, s));
    double kl = NAN;
    bool ok = work &&
              !msa_index(s, f[QI].data, f[KI].data, f[SCORES].data, f[IDS].data, f[INDEX_LSE].data, work) &&
              !msa_sparse(s, f[Q].data, f[K].data, f[V].data, f[IDS].data, f[O].data, f[LSE].data, work) &&
              !msa_backward(s, f[Q].data, f[K].data, f[V].data, f[IDS].data, f[O].data, f[LSE].data,
                            f[DOUT].data, f[DQ].data, f[DK].data, f[DV].data, work) &&
              !msa_kl(s, f[Q].data, f[K].data, f[QI].data, f[KI].data, f[IDS].data, f[LSE].data,
                      f[INDEX_LSE].data, 1, &kl, f[DQI].data, f[DKI].data, work);
    free(work);
    if (!ok)
        die("the reference failed");
    return kl;
}

/* ---- Writing ------------------------------------------------------------------------------------ */

static int write_case(const char *dir, const vector_case *c, const cli_output *f, double kl)
{
    char path[1024], text[512];
    io_error err;
    snprintf(path, sizeof path, "%s/%s", dir, c->name);
    if (cli_write_outputs(ME, path, &c->shape, f, N_FILES))
        return 2;
    int n = snprintf(text, sizeof text,
                     "{\"about\": \"%s\", \"block\": %d, \"topk\": %d, \"kl_weight\": 1, \"kl\": %.12g}\n",
                     c->why, c->shape.block, c->shape.topk, kl);
    snprintf(path, sizeof path, "%s/%s/case.json", dir, c->name);
    return io_write_file(path, &(io_chunk){text, (size_t)n}, 1, err) ? 0 : cli_fail(ME, "%s", err);
}

/* ---- Comparing ---------------------------------------------------------------------------------- */

/* The elements of a .npy file, which are its last `bytes`; NULL with a remark if it is not such a file.
 * Raw, because scores.npy holds -inf, which a reader of tensors refuses. */
static const void *read_elements(const char *path, size_t bytes, unsigned char **file)
{
    io_error err;
    size_t size;
    *file = NULL;
    if (!io_read_file(path, MAX_FILE, file, &size, err)) {
        tap_note("%s", err);
        return NULL;
    }
    size_t head = size > 10 ? 10u + (*file)[8] + 256u * (*file)[9] : 0;
    return head + bytes == size ? *file + head : NULL;
}

static bool near(const cli_output *computed, const msa_shape *s, const float *stored)
{
    const verdict_budget budget = {.relative = 1e-6, .absolute = 1e-9};
    int64_t dim[IO_MAX_DIMS], n = cli_sizes(s, computed->sizes, dim), row = dim[strlen(computed->sizes) - 1];
    double *oracle = malloc((size_t)n * sizeof *oracle);
    char text[VERDICT_TEXT];
    if (!oracle)
        die("no memory to compare");
    for (int64_t i = 0; i < n; i++)
        oracle[i] = (double)((const float *)computed->data)[i];
    verdict v = verdict_compare((verdict_dims){1, n / row, row}, oracle, stored, budget);
    verdict_text(computed->name, &v, text);
    if (!v.pass)
        tap_note("%s", text);
    free(oracle);
    return v.pass;
}

static void compare_file(const vector_case *c, int t, const cli_output *computed)
{
    char path[1024];
    unsigned char *file;
    int64_t dim[IO_MAX_DIMS];
    size_t bytes = (size_t)cli_sizes(&c->shape, computed->sizes, dim) * 4;
    snprintf(path, sizeof path, "%s/%s/%s", WHERE, c->name, computed->name);
    const void *stored = read_elements(path, bytes, &file);
    bool exact = t <= IDS;
    bool same =
        stored && (exact ? memcmp(stored, computed->data, bytes) == 0 : near(computed, &c->shape, stored));
    tap(same, "%s is what is computed today%s", path, exact ? ", to the bit" : "");
    free(file);
}

static void compare_kl(const vector_case *c, double kl)
{
    char path[1024];
    unsigned char *text = NULL;
    size_t size;
    io_error err;
    snprintf(path, sizeof path, "%s/%s/case.json", WHERE, c->name);
    const char *at =
        io_read_file(path, MAX_FILE, &text, &size, err) ? strstr((char *)text, "\"kl\": ") : NULL;
    double stored = at ? strtod(at + strlen("\"kl\": "), NULL) : NAN;
    tap(fabs(stored - kl) <= 1e-9 * fabs(kl) + 1e-12, "%s holds the loss %.12g", path, kl);
    free(text);
}

static int run_case(size_t number, const char *write_to)
{
    const vector_case *c = &cases[number];
    cli_output f[N_FILES];
    memcpy(f, files, sizeof f);
    int bad = cli_open_outputs(ME, write_to ? write_to : WHERE, &c->shape, f, N_FILES);
    if (!bad) {
        draw_inputs(c, SEED + number, f);
        double kl = compute(c, f);
        if (write_to)
            bad = write_case(write_to, c, f, kl);
        for (int t = 0; t < N_FILES && !write_to; t++)
            compare_file(c, t, &f[t]);
        if (!write_to)
            compare_kl(c, kl);
    }
    cli_free_outputs(f, N_FILES);
    return bad;
}

int main(int argc, char **argv)
{
    const char *write_to = argc == 3 && strcmp(argv[1], "--write") == 0 ? argv[2] : NULL;
    int bad = 0;
    for (size_t i = 0; i < N_CASES && !bad; i++)
        bad = run_case(i, write_to);
    return bad || write_to ? bad : tap_done();
}
