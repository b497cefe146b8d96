/**
 * @file published.c
 * @brief The checkpoints behind published.h.
 */
#include "published.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "../../ref/judge/inputs.h"
#include "check.h"
#include "scratch.h"

#define ROOM 65536 // bytes of a header or of config.json

int64_t published_shape(const published *p, int weight, int64_t *rows, int64_t *cols)
{
    const int64_t m = p->d_model, q = p->heads * p->d_head, kv = p->kv_heads * p->d_head;
    const int64_t shape[PUB_N][2] = {
        {q, m},          {kv, m},        {kv, m},        {m, q},          {p->kv_heads * p->d_index, m},
        {p->d_index, m}, {0, p->d_head}, {0, p->d_head}, {0, p->d_index}, {0, p->d_index},
        {0, m}};
    *rows = shape[weight][0], *cols = shape[weight][1];
    return (*rows ? *rows : 1) * *cols;
}

static void add(char *text, const char *format, ...)
{
    const size_t used = strlen(text);
    va_list args;
    va_start(args, format);
    vsnprintf(text + used, ROOM - used, format, args);
    va_end(args);
}

// ---- Values that a type holds exactly, and their bytes ------------------------------------------------------------

static size_t put_float(float x, unsigned char *to)
{
    memcpy(to, &x, 4);
    return 4;
}

static float as_bf16(float x, unsigned char *to)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    bits &= 0xffff0000u;
    to[0] = (unsigned char)(bits >> 16), to[1] = (unsigned char)(bits >> 24);
    memcpy(&x, &bits, 4);
    return x;
}

// A multiple of 2^-24 below 2^-14 is a subnormal; else 11 bits from the leading one on.
static float as_f16(float x, unsigned char *to)
{
    int exponent;
    const double size = fabs((double)x);
    frexp(size, &exponent); // size = f 2^exponent, f from 1/2 to 1
    const int scale = exponent < -13 ? 24 : 11 - exponent, steps = (int)(size * pow(2, scale));
    const int bits = (x < 0 ? 0x8000 : 0) | (exponent < -13 ? steps : (exponent + 14) << 10 | (steps & 1023));
    to[0] = (unsigned char)bits, to[1] = (unsigned char)(bits >> 8);
    return (float)(steps * pow(2, -scale) * (x < 0 ? -1 : 1));
}

// Any code that is no NaN, times 2^(scale - 127).
static float as_e4m3(inputs_rng *rng, int scale, unsigned char *to)
{
    const int code = (int)inputs_below(rng, 127), negative = (int)inputs_below(rng, 2);
    const int exponent = code / 8, fraction = code % 8;
    const double size = exponent ? (8 + fraction) * pow(2, exponent - 10) : fraction * pow(2, -9);
    *to = (unsigned char)(code | negative << 7);
    return (float)((negative ? -size : size) * pow(2, scale - 127));
}

// ---- Tensors ------------------------------------------------------------------------------------------------------

typedef struct tensor {
    char name[160], dtype[16];
    int64_t rows, cols; // rows 0: one dimension
    unsigned char *data;
    size_t bytes;
} tensor;

#define MOST (PUB_LAYERS * (PUB_N + 6) + 1)
typedef struct content {
    tensor t[MOST];
    int n;
} content;

static tensor *add_tensor(content *c, const char *name, const char *dtype, int64_t rows, int64_t cols,
                          size_t width)
{
    tensor *t = &c->t[c->n++];
    snprintf(t->name, sizeof t->name, "%s", name);
    snprintf(t->dtype, sizeof t->dtype, "%s", dtype);
    t->rows = rows, t->cols = cols;
    t->bytes = (size_t)((rows ? rows : 1) * cols) * width;
    t->data = check_alloc((int64_t)t->bytes, 1);
    return t;
}

static void draw_weight(published *p, content *c, int layer, int weight, const char *name, inputs_rng *rng)
{
    int64_t rows, cols;
    const int64_t n = published_shape(p, weight, &rows, &cols);
    const bool eight = strcmp(p->dtype, "F8_E4M3") == 0;
    const char *dtype = eight && !rows ? "BF16" : p->dtype;
    const size_t width = strcmp(dtype, "F32") == 0 ? 4 : strcmp(dtype, "F8_E4M3") == 0 ? 1 : 2;
    float *w = p->w[layer][weight] = check_floats(n);
    tensor *t = add_tensor(c, name, dtype, rows, cols, width), *scales = NULL;
    if (eight && rows) {
        char scale_name[200];
        snprintf(scale_name, sizeof scale_name, "%s_scale_inv", name);
        scales = add_tensor(c, scale_name, "U8", rows, cols / 32, 1);
    }
    for (int64_t i = 0; i < n; i++) {
        const float x = (rows ? 0.3f : 0.2f) * inputs_normal(rng);
        unsigned char *to = t->data + (size_t)i * width;
        if (scales && i % 32 == 0)
            scales->data[i / 32] = (unsigned char)(115 + inputs_below(rng, 6));
        w[i] = scales                       ? as_e4m3(rng, scales->data[i / 32], to)
               : strcmp(dtype, "BF16") == 0 ? as_bf16(x, to)
               : strcmp(dtype, "F16") == 0  ? as_f16(x, to)
                                            : x;
        if (width == 4)
            put_float(x, to);
    }
}

static void draw_layer(published *p, content *c, int layer, inputs_rng *rng)
{
    static const char *const names[PUB_N] = {"self_attn.q_proj",
                                             "self_attn.k_proj",
                                             "self_attn.v_proj",
                                             "self_attn.o_proj",
                                             NULL,
                                             NULL,
                                             "self_attn.q_norm",
                                             "self_attn.k_norm",
                                             NULL,
                                             NULL,
                                             "input_layernorm"};
    static const char *const index[2][PUB_N] = {
        {[PUB_WIQ] = "index_q_proj", "index_k_proj", [PUB_GIQ] = "index_q_norm", "index_k_norm"},
        {[PUB_WIQ] = "indexer.q_proj", "indexer.k_proj", [PUB_GIQ] = "indexer.q_norm", "indexer.k_norm"}};
    for (int w = 0; w < PUB_N; w++) {
        char name[160];
        if (!names[w] && layer == 0)
            continue;
        snprintf(name, sizeof name, "%s%d.%s%s.weight", p->prefix, layer, names[w] ? "" : "self_attn.",
                 names[w] ? names[w] : index[p->indexer][w]);
        draw_weight(p, c, layer, w, name, rng);
    }
}

// ---- Files ----------------------------------------------------------------------------------------------------------

static void path_in(const char *dir, const char *name, char path[512])
{
    snprintf(path, 512, "%s/%s", dir, name);
}

// Every `of`-th tensor from number `first` on.
static void write_shard(const content *c, const char *dir, const char *name, int first, int of)
{
    char path[512], *header = check_alloc(ROOM, 1);
    size_t bytes = 0;
    add(header, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = first; i < c->n; i += of) {
        const tensor *t = &c->t[i];
        add(header, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", t->name, t->dtype);
        if (t->rows)
            add(header, "%lld,", (long long)t->rows);
        add(header, "%lld],\"data_offsets\":[%zu,%zu]}", (long long)t->cols, bytes, bytes + t->bytes);
        bytes += t->bytes;
    }
    add(header, "}");
    const size_t length = strlen(header);
    unsigned char *file = check_alloc((int64_t)(8 + length + bytes), 1), *to = file + 8 + length;
    for (int i = 0; i < 8; i++)
        file[i] = (unsigned char)((uint64_t)length >> 8 * i);
    memcpy(file + 8, header, length);
    for (int i = first; i < c->n; to += c->t[i].bytes, i += of)
        memcpy(to, c->t[i].data, c->t[i].bytes);
    path_in(dir, name, path);
    scratch_put(path, file, 8 + length + bytes);
}

static void write_shards(const published *p, const content *c, const char *dir)
{
    char path[512], name[64], *index = check_alloc(ROOM, 1);
    path_in(dir, "model.safetensors.index.json", path);
    add(index, "{\"metadata\":{\"total_size\":1},\"weight_map\":{");
    for (int s = 0; s < p->shards; s++) {
        snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", s + 1, p->shards);
        write_shard(c, dir, name, s, p->shards);
        for (int i = s; i < c->n; i += p->shards)
            add(index, "%s\"%s\":\"%s\"", i ? "," : "", c->t[i].name, name);
    }
    add(index, "}}");
    // The first tensor is in the first shard, and so every other one has a comma before it.
    scratch_put(path, index, strlen(index));
}

static void write_config(const published *p, const char *dir)
{
    char path[512], *text = check_alloc(ROOM, 1);
    add(text, "{\"model_type\":\"minimax_m3_vl\",%s", p->nested ? "\"text_config\":{" : "");
    add(text,
        "%s\"hidden_size\":%d,\"num_hidden_layers\":%d,\"num_attention_heads\":%d,\"num_key_value_heads\":%d,"
        "\"head_dim\":%d,\"rms_norm_eps\":1e-06,",
        p->more ? p->more : "", p->d_model, PUB_LAYERS, p->heads, p->kv_heads, p->d_head);
    if (p->nested)
        add(text,
            "\"rope_theta\":10000,\"rotary_dim\":%d,\"sparse_attention_config\":{\"sparse_num_index_heads\":%"
            "d,"
            "\"sparse_index_dim\":%d,\"sparse_block_size\":%d,\"sparse_topk_blocks\":%d,\"sparse_local_"
            "block\":1,"
            "\"sparse_init_block\":0,\"sparse_score_type\":\"max\",\"sparse_attention_freq\":[0,1]}}}",
            p->rot, p->kv_heads, p->d_index, p->block, p->topk);
    else
        add(text,
            "\"rotary_dim\":64,\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":10000.0,"
            "\"partial_rotary_factor\":%.17g},\"index_n_heads\":%d,\"index_head_dim\":%d,\"index_block_"
            "size\":%d,"
            "\"index_topk_blocks\":%d,\"index_local_blocks\":1,"
            "\"layer_types\":[\"full_attention\",\"minimax_m3_sparse\"]}",
            (double)p->rot / p->d_head, p->kv_heads, p->d_index, p->block, p->topk);
    path_in(dir, "config.json", path);
    scratch_put(path, text, strlen(text));
}

void published_write(published *p, const char *dir)
{
    content *c = check_alloc(1, sizeof *c);
    inputs_rng rng = {p->seed};
    mkdir(dir, 0700);
    for (int l = 0; l < PUB_LAYERS; l++)
        draw_layer(p, c, l, &rng);
    write_config(p, dir);
    if (p->shards)
        write_shards(p, c, dir);
    else
        write_shard(c, dir, "model.safetensors", 0, 1);
}
