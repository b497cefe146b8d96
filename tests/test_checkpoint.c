/**
 * @file test_checkpoint.c
 * @brief Layers of published checkpoints against the reference in all names, types and shapes; refusals by name;
 *        spoiled files.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../ref/checkpoint/checkpoint.h"
#include "../ref/cli/cli.h"
#include "../ref/judge/inputs.h"
#include "support/check.h"
#include "support/published.h"
#include "support/scratch.h"

#define TOLERANCE 2e-6 // of the largest value of the tensor

static const published tiny = {.d_model = 32,
                               .heads = 4,
                               .kv_heads = 2,
                               .d_head = 8,
                               .d_index = 8,
                               .block = 4,
                               .topk = 3,
                               .rot = 4,
                               .prefix = "model.layers.",
                               .dtype = "F32",
                               .seed = 5};

// A path that stays; those of scratch() are a ring.
static char *kept(const char *name)
{
    char *path = check_alloc(512, 1);
    snprintf(path, 512, "%s", scratch(name));
    return path;
}

static npy_array read_array(check_case *c, const char *dir, const char *name, npy_type type)
{
    char path[600];
    npy_array a;
    io_error note, err;
    snprintf(path, sizeof path, "%s/%s.npy", dir, name);
    check_true(c, io_read_tensor(path, type, -1, true, &a, note, err), "%s", err);
    return a;
}

// ---- The reference ------------------------------------------------------------------------------------------------

// Row vectors times matrices: ours are [in,out].
static float *transposed(const float *w, int64_t rows, int64_t cols)
{
    float *t = check_floats(rows * cols);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++)
            t[j * rows + i] = w[i * cols + j];
    return t;
}

static msa_layer_weights weights_of(const published *p, int layer)
{
    float *w[PUB_N];
    for (int i = 0; i < PUB_N; i++) {
        int64_t rows, cols;
        published_shape(p, i, &rows, &cols);
        w[i] = p->w[layer][i] && rows ? transposed(p->w[layer][i], rows, cols) : p->w[layer][i];
    }
    return (msa_layer_weights){w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8], w[9], NULL, NULL, NULL};
}

typedef struct expected {
    msa_shape s;
    msa_layer_state st;
    float *y;
} expected;

static expected run_reference(check_case *c, const published *p, int layer, int index_rot, int64_t n,
                              const float *x)
{
    expected e = {.s = {.n_q = n,
                        .n_kv = n,
                        .n_heads = p->heads,
                        .n_kv_heads = p->kv_heads,
                        .d_head = p->d_head,
                        .d_index = p->d_index,
                        .block = p->block,
                        .topk = p->topk,
                        .n_seqs = 1}};
    const msa_layer_config config = {
        .d_model = p->d_model, .rot = p->rot, .index_rot = index_rot, .theta = 10000, .eps = 1e-6};
    const int64_t q = n * p->heads * p->d_head, kv = n * p->kv_heads * p->d_head,
                  qi = n * p->kv_heads * p->d_index;
    e.st = (msa_layer_state){.q_raw = check_floats(q),
                             .k_raw = check_floats(kv),
                             .qi_raw = check_floats(qi),
                             .ki_raw = check_floats(n * p->d_index),
                             .q = check_floats(q),
                             .qi = check_floats(qi),
                             .k = check_floats(kv),
                             .v = check_floats(kv),
                             .ki = check_floats(n * p->d_index),
                             .o = check_floats(q),
                             .lse = check_floats(n * p->heads),
                             .index_lse = check_floats(p->kv_heads * n),
                             .ids = check_ints(p->kv_heads * n * p->topk),
                             .pos = check_ints(n)};
    e.y = check_floats(n * p->d_model);
    const msa_layer_weights w = weights_of(p, layer);
    const msa_status status =
        msa_layer_forward(&msa_ref_ops, &e.s, &config, layer ? MSA_ATTN_SPARSE : MSA_ATTN_DENSE, &w, x, &e.st,
                          e.y, check_alloc((int64_t)msa_layer_workspace(&msa_ref_ops, &e.s, &config), 1));
    check_true(c, status == MSA_OK, "reference: %s", msa_strerror(status));
    return e;
}

static void compare(check_case *c, const char *what, const float *oracle, const npy_array *found,
                    int64_t count)
{
    double most = 0, worst = 0;
    check_true(c, (int64_t)found->count == count, "%s: expected %lld values, found %zu", what,
               (long long)count, found->count);
    for (int64_t i = 0; i < count && (int64_t)found->count == count; i++) {
        most = fmax(most, fabs((double)oracle[i]));
        worst = fmax(worst, fabs((double)oracle[i] - (double)((float *)found->data)[i]));
    }
    check_true(c, worst <= TOLERANCE * most, "%s: off by %.3g of %.3g", what, worst, most);
}

// With the selection that was found, which is judged by itself: o, lse and y.
static void compare_attention(check_case *c, const published *p, int layer, const expected *e,
                              const char *out)
{
    const int64_t n = e->s.n_q, rows = n * p->heads;
    npy_array o = read_array(c, out, "o", NPY_F32), lse = read_array(c, out, "lse", NPY_F32);
    npy_array y = read_array(c, out, "y", NPY_F32);
    if (layer) {
        bool ok;
        npy_array ids = read_array(c, out, "ids", NPY_I32), qi = read_array(c, out, "qi", NPY_F32);
        npy_array ki = read_array(c, out, "ki", NPY_F32);
        check_true(c, verdict_ids(&e->s, qi.data, ki.data, ids.data, 1, 0.001, &ok).pass, "the selection");
        compare(c, "qi", e->st.qi, &qi, n * p->kv_heads * p->d_index);
        compare(c, "ki", e->st.ki, &ki, n * p->d_index);
        msa_sparse(&e->s, e->st.q, e->st.k, e->st.v, ids.data, e->st.o, e->st.lse,
                   check_alloc((int64_t)msa_workspace(&msa_ref_ops, &e->s), 1));
        const msa_layer_weights w = weights_of(p, layer);
        msa_ref_ops.gemm(false, false, n, p->d_model, p->heads * p->d_head, e->st.o, w.wo, 0, e->y);
        npy_free(&ids);
        npy_free(&qi);
        npy_free(&ki);
    }
    compare(c, "o", e->st.o, &o, rows * p->d_head);
    compare(c, "lse", e->st.lse, &lse, rows);
    compare(c, "y", e->y, &y, n * p->d_model);
    npy_free(&o);
    npy_free(&lse);
    npy_free(&y);
}

// ---- Commands -------------------------------------------------------------------------------------------------------

static int layer_status(const char *const *words)
{
    char *argv[24];
    int n = 0;
    for (; words[n]; n++)
        argv[n] = (char *)(uintptr_t)words[n];
    return cmd_layer(n, argv);
}

// Runs `msa layer`, with further words, into a directory of its own: what a run has read is not written by the next.
// NULL where it fails.
static const char *run_layer(check_case *c, const char *dir, int layer, const char *hidden,
                             const char *const *more)
{
    static int runs;
    char name[16], number[16];
    snprintf(name, sizeof name, "out%d", runs++);
    snprintf(number, sizeof number, "%d", layer);
    const char *out = kept(name);
    const char *word[24] = {"layer",    "--checkpoint", dir,     "--layer", number,
                            "--hidden", hidden,         "--out", out};
    for (int i = 0; more[i]; i++)
        word[9 + i] = more[i];
    const bool ran = layer_status(word) == 0;
    check_true(c, ran, "layer %d runs", layer);
    return ran ? out : NULL;
}

static float *draw_hidden(const char *path, int64_t n, int64_t m, uint64_t seed)
{
    float *x = check_floats(n * m);
    inputs_rng rng = {seed};
    io_error err;
    for (int64_t i = 0; i < n * m; i++)
        x[i] = inputs_normal(&rng);
    if (!npy_write(path, NPY_F32, 2, (const int64_t[]){n, m}, x, err))
        tap(false, "%s", err);
    return x;
}

// One layer of a checkpoint, by exact angles, against the reference.
static void one_layer(check_case *c, const published *p, const char *dir, int layer, int index_rot, int64_t n)
{
    const char *hidden = kept("x.npy");
    const float *x = draw_hidden(hidden, n, p->d_model, p->seed + 1);
    char width[16];
    snprintf(width, sizeof width, "%d", index_rot);
    const char *const own[] = {"--exact-angles", "--index-rot", width, NULL}, *const plain[] = {
                                                                                  "--exact-angles", NULL};
    const char *out = run_layer(c, dir, layer, hidden, layer && index_rot ? own : plain);
    if (!out)
        return;
    const expected e = run_reference(c, p, layer, index_rot, n, x);
    npy_array q = read_array(c, out, "q", NPY_F32), k = read_array(c, out, "k", NPY_F32);
    npy_array v = read_array(c, out, "v", NPY_F32);
    compare(c, "q", e.st.q, &q, n * p->heads * p->d_head);
    compare(c, "k", e.st.k, &k, n * p->kv_heads * p->d_head);
    compare(c, "v", e.st.v, &v, n * p->kv_heads * p->d_head);
    compare_attention(c, p, layer, &e, out);
    npy_free(&q);
    npy_free(&k);
    npy_free(&v);
}

static void layers(void)
{
    static const struct {
        const char *name;
        published p;
        int index_rot;
        int64_t n;
    } cases[] = {
        {"text model, F32",
         {32, 4, 2, 8, 8, 4, 3, 4, "model.layers.", true, false, "F32", 0, NULL, 1, {{0}}},
         0,
         65},
        {"vision-language on disk, BF16, shards",
         {64, 16, 1, 16, 16, 8, 2, 8, "language_model.model.layers.", false, true, "BF16", 3, NULL, 2, {{0}}},
         0,
         100},
        {"vision-language in memory, F16, one shard",
         {48, 6, 3, 16, 8, 8, 2, 8, "model.language_model.layers.", true, false, "F16", 1, NULL, 3, {{0}}},
         0,
         77},
        {"no head, MXFP8, shards",
         {64, 8, 2, 8, 32, 16, 4, 8, "layers.", false, true, "F8_E4M3", 4, NULL, 4, {{0}}},
         0,
         129},
        {"index width of its own",
         {32, 4, 2, 16, 8, 4, 3, 16, "model.layers.", false, false, "BF16", 2, NULL, 5, {{0}}},
         6,
         50},
        {"weights of two tiles",
         {1536, 24, 2, 64, 32, 4, 2, 32, "model.layers.", true, false, "BF16", 2, NULL, 7, {{0}}},
         0,
         9},
        {"one token",
         {32, 2, 2, 8, 4, 4, 3, 0, "language_model.layers.", false, true, "F32", 0, NULL, 6, {{0}}},
         0,
         1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        check_case c =
            check_begin("%s: G %d, di %d, dh %d", cases[i].name, cases[i].p.heads / cases[i].p.kv_heads,
                        cases[i].p.d_index, cases[i].p.d_head);
        published p = cases[i].p;
        const char *dir = kept("model");
        published_write(&p, dir);
        for (int layer = 0; layer < PUB_LAYERS; layer++)
            one_layer(&c, &p, dir, layer, cases[i].index_rot, cases[i].n);
        char index[600];
        snprintf(index, sizeof index, "%s/model.safetensors.index.json", dir);
        unlink(index); // the next may have none
        check_end(&c);
    }
}

static const char *const nothing[] = {NULL};

// Whether two runs left the same of something, but for `skip` values at the beginning of the first one's.
static void compare_runs(check_case *c, const char *what, const char *one, int64_t skip, const char *other)
{
    npy_array a = read_array(c, one, what, NPY_F32), b = read_array(c, other, what, NPY_F32);
    compare(c, what, (float *)a.data + skip, &b, (int64_t)a.count - skip);
    npy_free(&a);
    npy_free(&b);
}

static void input_norm(void)
{
    check_case c = check_begin("--residual: the input norm first, and the sum with what it was given");
    published p = tiny;
    const char *dir = kept("model"), *hidden = kept("x.npy"), *normed = kept("n.npy");
    const int64_t n = 40, m = p.d_model;
    io_error err;
    published_write(&p, dir);
    const float *x = draw_hidden(hidden, n, m, 9);
    float *y = check_floats(n * m);
    msa_rmsnorm(n, (int)m, 1e-6, x, p.w[1][PUB_INPUT], y);
    check_true(&c, npy_write(normed, NPY_F32, 3, (const int64_t[]){1, n, m}, y, err), "%s", err);
    const char *a = run_layer(&c, dir, 1, hidden, (const char *[]){"--residual", NULL});
    const char *b = run_layer(&c, dir, 1, normed, nothing);
    if (a && b) {
        compare_runs(&c, "y", a, 0, b);
        npy_array ya = read_array(&c, a, "y", NPY_F32), sum = read_array(&c, a, "residual", NPY_F32);
        for (int64_t i = 0; i < n * m; i++)
            y[i] = x[i] + ((float *)ya.data)[i];
        check_same(&c, "residual.npy", y, sum.data, (size_t)(n * m) * 4);
        npy_free(&ya);
        npy_free(&sum);
    }
    check_end(&c);
}

static void positions(void)
{
    check_case c = check_begin("--positions turn queries and keys; --ids are attended to");
    published p = tiny;
    const char *dir = kept("model"), *hidden = kept("x.npy"), *pos = kept("pos.npy"),
               *chosen = kept("ids.npy");
    const char *turned = kept("thk.npy");
    const int64_t n = 40;
    int32_t *numbers = check_ints(n), *ids = check_ints(p.kv_heads * n * p.topk);
    int32_t *by_token = check_ints(p.kv_heads * n * p.topk);
    io_error err;
    published_write(&p, dir);
    draw_hidden(hidden, n, p.d_model, 9);
    for (int64_t i = 0; i < n; i++)
        numbers[i] = (int32_t)i + 1000;
    for (int64_t i = 0; i < p.kv_heads * n; i++) // block 0 and the local one
        for (int j = 0; j < p.topk; j++)
            ids[i * p.topk + j] = j == 0 ? (int32_t)(i % n / p.block) : j == 1 && i % n >= p.block ? 0 : -1;
    for (int64_t i = 0; i < p.kv_heads * n; i++)
        memcpy(by_token + (i % n * p.kv_heads + i / n) * p.topk, ids + i * p.topk, (size_t)p.topk * 4);
    check_true(&c, npy_write(turned, NPY_I32, 4, (const int64_t[]){1, n, p.kv_heads, p.topk}, by_token, err),
               "%s", err);
    check_true(&c, npy_write(pos, NPY_I32, 2, (const int64_t[]){1, n}, numbers, err), "%s", err);
    check_true(&c, npy_write(chosen, NPY_I32, 3, (const int64_t[]){p.kv_heads, n, p.topk}, ids, err), "%s",
               err);
    const char *moved =
        run_layer(&c, dir, 1, hidden, (const char *[]){"--exact-angles", "--positions", pos, NULL});
    const char *plain = run_layer(&c, dir, 1, hidden, (const char *[]){"--exact-angles", NULL});
    const char *given = run_layer(&c, dir, 1, hidden, (const char *[]){"--ids", chosen, NULL});
    const char *other = run_layer(&c, dir, 1, hidden, (const char *[]){"--ids", turned, NULL});
    if (moved && plain && given && other) {
        compare_runs(&c, "y", given, 0, other);
        npy_array qi = read_array(&c, moved, "qi", NPY_F32), at_0 = read_array(&c, plain, "qi", NPY_F32);
        npy_array kept_ids = read_array(&c, given, "ids", NPY_I32);
        for (int64_t i = 0; i < n; i++)
            numbers[i] = 1000;
        msa_rope(n, p.kv_heads, p.d_index, p.rot, 10000, numbers, false, at_0.data);
        compare(&c, "qi by 1000 further on", at_0.data, &qi, (int64_t)at_0.count);
        for (int64_t i = 0; i < p.kv_heads * n; i++)
            cli_sort_ids(ids + i * p.topk, p.topk);
        check_same(&c, "ids", ids, kept_ids.data, (size_t)(p.kv_heads * n * p.topk) * 4);
        npy_free(&qi);
        npy_free(&at_0);
        npy_free(&kept_ids);
    }
    check_end(&c);
}

static void own_width(void)
{
    check_case c = check_begin("--rot is another width than config.json's");
    published p = tiny;
    const char *dir = kept("model"), *hidden = kept("x.npy");
    published_write(&p, dir);
    const float *x = draw_hidden(hidden, 30, p.d_model, 9);
    const char *out = run_layer(&c, dir, 1, hidden, (const char *[]){"--exact-angles", "--rot", "8", NULL});
    p.rot = 8;
    const expected e = run_reference(&c, &p, 1, 0, 30, x);
    if (out)
        compare_attention(&c, &p, 1, &e, out);
    check_end(&c);
}

static void continued(void)
{
    check_case c = check_begin("--past: tokens in three calls are those of one");
    published p = tiny;
    const char *dir = kept("model"), *hidden = kept("x.npy"), *part = kept("part.npy");
    static const int64_t ends[] = {27, 28, 40};
    const int64_t n = ends[2], m = p.d_model;
    io_error err;
    published_write(&p, dir);
    const float *x = draw_hidden(hidden, n, m, 9);
    for (int layer = 0; layer < PUB_LAYERS; layer++) {
        const char *whole = run_layer(&c, dir, layer, hidden, nothing), *past = NULL;
        for (int i = 0; i < 3; i++) {
            const int64_t begin = i ? ends[i - 1] : 0;
            npy_write(part, NPY_F32, 2, (const int64_t[]){ends[i] - begin, m}, x + begin * m, err);
            past = run_layer(&c, dir, layer, part, past ? (const char *[]){"--past", past, NULL} : nothing);
        }
        if (!whole || !past)
            continue;
        compare_runs(&c, "y", whole, ends[1] * m, past);
        compare_runs(&c, "k", whole, 0, past);
        compare_runs(&c, "v", whole, 0, past);
    }
    check_end(&c);
}

// ---- Rotation -------------------------------------------------------------------------------------------------------

static void rotation(void)
{
    check_case c = check_begin(
        "rotation: exact is msa_rope(), rounded is off by float32 angles, narrow heads cut the table");
    enum { N = 3, D = 8 };
    static const int32_t pos[N] = {0, 1, 1000003};
    float x[N * D], exact[N * D], rounded[N * D], cut[N * D];
    inputs_rng rng = {check_seed(1)};
    for (int i = 0; i < N * D; i++)
        x[i] = inputs_normal(&rng);
    memcpy(exact, x, sizeof x), memcpy(rounded, x, sizeof x), memcpy(cut, x, sizeof x);
    checkpoint_turn(&(checkpoint_rotation){6, 10000, true}, N, 1, D, pos, exact);
    checkpoint_turn(&(checkpoint_rotation){6, 10000, false}, N, 1, D, pos, rounded);
    checkpoint_turn(&(checkpoint_rotation){24, 10000, true}, N, 1, D, pos, cut);
    float rope[N * D];
    memcpy(rope, x, sizeof x);
    msa_rope(N, 1, D, 6, 10000, pos, false, rope);
    check_same(&c, "exact", rope, exact, sizeof rope);
    check_true(&c, memcmp(rounded, exact, sizeof exact) != 0, "rounded is not exact");
    for (int t = 0; t < N; t++)
        for (int i = 0; i < 3; i++) { // a rounding after every operation
            const float power = (float)pow(10000, (double)((float)(2 * i) / 6));
            const double turned = (double)((float)pos[t] * (1 / power));
            const double y = (double)x[t * D + i] * cos(turned) - (double)x[t * D + i + 3] * sin(turned);
            check_true(&c, fabs(y - (double)rounded[t * D + i]) < 1e-6, "rounded: channel %d of token %d", i,
                       t);
        }
    // Channel i has the angle of entry i of the table; its partner is half of D away.
    for (int t = 0; t < N; t++)
        for (int i = 0; i < D; i++) {
            const double a = pos[t] * pow(10000, -2.0 * (i % 12) / 24);
            const double other = (double)x[t * D + (i + D / 2) % D] * (i < D / 2 ? -1 : 1);
            const double y = (double)x[t * D + i] * cos(a) + other * sin(a);
            check_true(&c, fabs(y - (double)cut[t * D + i]) < 1e-6, "cut: channel %d of token %d", i, t);
        }
    check_true(&c, checkpoint_turn(&(checkpoint_rotation){3, 1, true}, N, 1, D, pos, x) == MSA_ERR_ROTARY,
               "an odd width is refused");
    check_end(&c);
}

// ---- Refusals -------------------------------------------------------------------------------------------------------

// The first place of `from` in a file becomes `to`, of the same length.
static bool replace(const char *dir, const char *name, const char *from, const char *to)
{
    char path[600];
    unsigned char *data;
    size_t bytes;
    io_error err;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (strlen(from) != strlen(to) || !io_read_file(path, 1 << 24, &data, &bytes, err))
        return false;
    bool found = false;
    for (size_t i = 0; i + strlen(from) <= bytes && !found; i++)
        if (memcmp(data + i, from, strlen(from)) == 0) {
            memcpy(data + i, to, strlen(to));
            found = true;
        }
    scratch_put(path, data, bytes);
    free(data);
    return found;
}

static void refusals(void)
{
    static const char config[] = "config.json", index[] = "model.safetensors.index.json",
                      one[] = "model-00001-of-00002.safetensors";
    static const struct {
        const char *file, *from, *to, *word;
        bool nested;
    } cases[] = {
        {config, "minimax_m3_vl", "minimax_m2_vl", "model_type: expected one that begins with minimax_m3",
         false},
        {config, "\"hidden_size\":32", "\"hidden_size\":-2", "hidden_size: expected a whole number from 1",
         false},
        {config, "\"hidden_size\":32", "\"hidden_size\":16", "expected the shape (16,)", false},
        {config, "\"head_dim\":8", "\"head_dim\":4", "expected the shape (16, 32)", false},
        {config, "num_attention_heads\":4", "num_attention_heads\":3",
         "expected a multiple of num_key_value_heads", false},
        {config, "num_hidden_layers\":2", "num_hidden_layers\":1", "layer_types: expected a list", false},
        {config, "index_n_heads\":2", "index_n_heads\":4",
         "index heads: expected as many as num_key_value_heads", false},
        {config, "index_local_blocks\":1", "index_local_blocks\":0", "local blocks: expected 1", false},
        {config, "index_local_blocks\":1", "index_local_blocks\":2", "local blocks: expected 1", false},
        {config, "minimax_m3_sparse", "some_other_thing!", "only minimax_m3_sparse and full_attention",
         false},
        {config, "\"default\"", "\"yarn\"   ", "rope_type: expected \"default\", found \"yarn\"", false},
        {config, "\"rope_type\":\"default\"", "\"sparse\":{\"theta\":1 }",
         "sparse: expected one rotation for all layers", false},
        {config, "_rotary_factor\":0.5", "_rotary_factor\":9.5",
         "partial_rotary_factor: expected a number from 0 to 1", false},
        {config, "_rotary_factor\":0.5", "_rotary_factor\":0.4", "rotated channels: expected an even number",
         false},
        {config, "sparse_init_block\":0", "sparse_init_block\":1", "first blocks", true},
        {config, "sparse_score_type\":\"max\"", "sparse_score_type\":\"sum\"",
         "sparse_score_type: expected \"max\"", true},
        {config, "[0,1]", "[0,x]", "expected JSON", true},
        {config, "[0,1]", "[0.5]", "sparse_attention_freq: expected a list of", true},
        {config, "{\"model_type\"", "[\"model_type\"", "expected JSON", false},
        {index, "weight_map", "weight_mop", "expected an object weight_map", false},
        {index, ":\"model-00001-of-00002", ":\"/odel-00001-of-00002", "the name of a file beside it", false},
        {index, ":\"model-00001-of-00002", ":\"model-00002-of-00002", "as model.safetensors.index.json says",
         false},
        {index, "1.self_attn.q_proj.weight", "1.self_attn.q_prej.weight", "expected tensors such as", false},
        {index, "1.self_attn.q_norm.weight", "1.self_attn.q_nerm.weight", "expected a tensor", false},
        {index, "1.self_attn.q_norm.weight", "1.self_attn.index_q_x.bia", "expected a tensor", false},
        {index, "0.input_layernorm.weight", "1.self_attn.v_proj.bias_", "one that MSA has not", false},
        {one, "\"F32\",\"shape\":[32,32]", "\"I32\",\"shape\":[32,32]",
         "expected dtype BF16, F16, F32 or F8_E4M3", false},
        {one, "\"shape\":[32,32]", "\"shape\":[64,16]", "expected the shape (32, 32)", false},
        {one, "data_offsets\":[0,", "data_offsets\":[4,", "expected", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        check_case c = check_begin("refused: %s", cases[i].word);
        published p = tiny;
        const char *dir = kept("refused");
        checkpoint k;
        checkpoint_layer l;
        io_error err = "";
        p.shards = 2, p.nested = cases[i].nested;
        published_write(&p, dir);
        check_true(&c, checkpoint_open(dir, &k, err) && checkpoint_find_layer(&k, 1, true, &l, err),
                   "whole: %s", err);
        checkpoint_close(&k);
        check_true(&c, replace(dir, cases[i].file, cases[i].from, cases[i].to), "'%s' is there",
                   cases[i].from);
        bool read = checkpoint_open(dir, &k, err);
        read = read && checkpoint_find_layer(&k, 1, true, &l, err) &&
               checkpoint_find_layer(&k, 0, true, &l, err);
        check_true(&c, !read && strstr(err, cases[i].word) && !strpbrk(err, "\r\n"), "found: %s", err);
        checkpoint_close(&k);
        check_end(&c);
    }
}

// What `msa layer` is not to do: 2, and no directory.
static void command_refusals(void)
{
    check_case c = check_begin("options that do not fit the layer are refused, and nothing is written");
    published p = tiny;
    const char *dir = kept("model"), *x = kept("x.npy"), *wide = kept("wide.npy"), *out = kept("none");
    const char *pos = kept("pos.npy"), *ids = kept("ids.npy");
    static const int32_t numbers[12] = {0, -1, 2};
    static const int64_t three = 3;
    io_error err;
    published_write(&p, dir);
    draw_hidden(x, 3, p.d_model, 1);
    draw_hidden(wide, 3, p.d_model + 1, 1);
    check_true(&c,
               npy_write(pos, NPY_I32, 1, &three, numbers, err) &&
                   npy_write(ids, NPY_I32, 3, (const int64_t[]){1, 3, 1}, numbers, err),
               "%s", err);
    const char *const cases[][4] = {{"0", x, "--dump"},
                                    {"0", x, "--index-rot", "2"},
                                    {"0", x, "--ids", ids},
                                    {"1", x, "--ids", ids},
                                    {"1", x, "--rot", "5"},
                                    {"1", x, "--rot", "10"},
                                    {"1", x, "--index-rot", "3"},
                                    {"1", x, "--index-rot", "10"},
                                    {"1", x, "--positions", pos},
                                    {"1", x, "--positions", x},
                                    {"1", x, "--past", dir},
                                    {"1", x, "--kernel", "dense/tiles"},
                                    {"1", x, "--backend", "slow"},
                                    {"1", wide, NULL},
                                    {"2", x, NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *word[12] = {"layer",     "--checkpoint", dir, "--layer",   cases[i][0], "--hidden",
                                cases[i][1], "--out",        out, cases[i][2], cases[i][3]};
        check_true(&c, layer_status(word) == 2 && access(out, F_OK) != 0, "%s %s",
                   word[9] ? word[9] : word[6], word[9] && word[10] ? word[10] : "");
    }
    check_end(&c);
}

static void values(void)
{
    check_case c =
        check_begin("weights that are no numbers are refused by their place; a file that ends early");
    published p = tiny;
    const char *dir = kept("values");
    checkpoint k;
    checkpoint_layer l;
    io_error err;
    published_write(&p, dir);
    check_true(&c, checkpoint_open(dir, &k, err) && checkpoint_find_layer(&k, 1, false, &l, err), "%s", err);
    const checkpoint_weight *w = &l.weight[CHECKPOINT_Q];
    unsigned char *data;
    size_t bytes;
    check_true(&c, io_read_file(w->path, 1 << 24, &data, &bytes, err), "%s", err);
    const float none = NAN;
    float x[32] = {1}, y[32];
    memcpy(data + w->at + 4 * (3 * 32 + 5), &none, 4);
    scratch_put(w->path, data, bytes);
    check_true(&c, !checkpoint_project(w, 1, x, y, err) && strstr(err, "q_proj.weight': nan at [3, 5]"), "%s",
               err);
    scratch_put(w->path, data, w->at + 100);
    check_true(&c, !checkpoint_project(w, 1, x, y, err) && strstr(err, "shrank"), "%s", err);
    scratch_put(w->path, data, w->at - 1);
    check_true(&c, !checkpoint_project(w, 1, x, y, err) && strstr(err, "shrank"), "%s", err);
    free(data);
    checkpoint_close(&k);
    check_end(&c);
}

// Any byte of any file: refused in one line, or a layer that computes.
static void spoiled(void)
{
    static const char *const files[] = {"config.json", "model.safetensors.index.json",
                                        "model-00001-of-00002.safetensors",
                                        "model-00002-of-00002.safetensors"};
    check_case c = check_begin("spoiled bytes: one line, or a layer");
    inputs_rng rng = {check_seed(2)};
    published p = tiny;
    const char *dir = kept("spoiled");
    p.shards = 2, p.dtype = "F8_E4M3";
    published_write(&p, dir);
    const int rounds = tap_full() ? 5000 : 200;
    int refused = 0;
    for (int round = 0; round < rounds; round++) {
        char path[600];
        unsigned char *data;
        size_t bytes;
        checkpoint k;
        checkpoint_layer l;
        io_error err = "";
        float x[32] = {1}, y[64];
        snprintf(path, sizeof path, "%s/%s", dir, files[round % 4]);
        if (!io_read_file(path, 1 << 24, &data, &bytes, err))
            break;
        unsigned char *bad = check_alloc((int64_t)bytes, 1);
        memcpy(bad, data, bytes);
        const size_t most = round % 4 < 2  ? bytes
                            : bytes < 3000 ? bytes
                                           : 3000; // of a shard mostly its header
        for (int64_t i = inputs_below(&rng, 4); i >= 0; i--)
            bad[inputs_below(&rng, (int64_t)most)] = (unsigned char)inputs_below(&rng, 256);
        scratch_put(path, bad, inputs_below(&rng, 8) ? bytes : (size_t)inputs_below(&rng, (int64_t)bytes));
        bool read = checkpoint_open(dir, &k, err);
        for (int layer = 0; layer < PUB_LAYERS && read; layer++)
            read = checkpoint_find_layer(&k, layer, true, &l, err) &&
                   (l.weight[CHECKPOINT_Q].cols > 32 || l.weight[CHECKPOINT_Q].rows > 64 ||
                    checkpoint_project(&l.weight[CHECKPOINT_Q], 1, x, y, err));
        refused += !read;
        check_true(&c, read || (*err && !strpbrk(err, "\r\n")), "'%s'", err);
        checkpoint_close(&k);
        scratch_put(path, data, bytes);
        free(data);
    }
    check_true(&c, refused > rounds / 4, "%d of %d are refused", refused, rounds);
    check_end(&c);
}

int main(int argc, char **argv)
{
    check_start(argc, argv);
    if (!st_available()) {
        tap_skip("checkpoints", "no jansson here");
        return tap_done();
    }
    layers();
    input_norm();
    positions();
    own_width();
    continued();
    rotation();
    refusals();
    command_refusals();
    values();
    spoiled();
    return check_done();
}
