/* Autoregressive decoding: a paged KV cache a layer, filled by the same code that trains. */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define CHUNK 256 /* tokens of a prompt that go through the network at a time */

struct model_decoder {
    const model *m;
    const msa_ops *ops;
    int length, max_len;
    block_state pass;       /* activations of a chunk; the same for every layer but for the cache */
    msa_layer_state *cache; /* [n_layers]: k, v, ki, in pages, of bf16 with a table of that */
    int32_t *table;         /* the same for every layer */
    float *x, *logits;
    void *work;
    void *memory; /* of all tensors above */
};

static int n_pages(const model_decoder *d)
{
    const int block = d->m->config.block;
    return d->max_len / block + (d->max_len % block != 0);
}

/* A call of n tokens. */
static msa_shape shape_of(const model_decoder *d, int n)
{
    return attention_shape(&d->m->config, n, (int64_t)n_pages(d) * d->m->config.block);
}

/* The largest shape a call can have: workspaces grow with it. */
static msa_shape largest(const model_decoder *d)
{
    return shape_of(d, d->max_len < CHUNK ? d->max_len : CHUNK);
}

static msa_attention mode_of(const model_config *c)
{
    return c->sparse ? MSA_ATTN_SPARSE : MSA_ATTN_DENSE;
}

static size_t place(model_decoder *dec, void *memory)
{
    const model_config *c = &dec->m->config;
    const msa_shape s = largest(dec);
    const msa_layer_config lc = attention_config(c);
    const size_t element = msa_layer_caches_bf16(dec->ops, mode_of(c)) ? sizeof(uint16_t) : sizeof(float);
    arena a = arena_over(memory);
    place_block(c, s.n_q, &dec->pass, &a);
    for (int l = 0; l < c->n_layers; l++)
        place_cache(c, s.n_kv, element, &dec->cache[l], &a);
    dec->table = arena_take(&a, n_pages(dec), sizeof *dec->table);
    dec->x = arena_take(&a, s.n_q * c->d_model, sizeof(float));
    dec->logits = arena_take(&a, MODEL_VOCAB, sizeof(float));
    dec->work = arena_take(&a, 1, msa_layer_workspace(dec->ops, &s, &lc));
    return arena_bytes(&a);
}

bool model_decodes(const model_config *c)
{
    return c->selector == SELECTOR_MAX && !c->value_head;
}

model_decoder *model_decoder_new(const model *m, const msa_ops *ops, int max_len)
{
    model_decoder *d = model_decodes(&m->config) ? calloc(1, sizeof *d) : NULL;
    if (!d)
        return NULL;
    *d = (model_decoder){.m = m, .ops = ops, .max_len = max_len};
    d->cache = calloc((size_t)m->config.n_layers, sizeof *d->cache);
    const msa_shape s = largest(d);
    if (d->cache && msa_check_shape(&s) == MSA_OK) {
        const size_t bytes = place(d, NULL);
        if ((double)bytes <= io_memory_left())
            d->memory = aligned_alloc(ARENA_ALIGN, bytes);
    }
    if (!d->memory) {
        model_decoder_free(d);
        return NULL;
    }
    place(d, d->memory);
    for (int b = 0; b < n_pages(d); b++) /* any order is a right one */
        d->table[b] = n_pages(d) - 1 - b;
    return d;
}

void model_decoder_free(model_decoder *d)
{
    if (!d)
        return;
    free(d->memory);
    free(d->cache);
    free(d);
}

/* n <= CHUNK tokens through all layers; the output of the last one stays in d->x. */
static void append(model_decoder *d, const uint8_t *tokens, int n)
{
    const model *m = d->m;
    const model_config *c = &m->config;
    const size_t width = (size_t)c->d_model;
    const msa_shape s = shape_of(d, n);
    const int32_t length = d->length + n;
    const msa_pages pages = {.n_pages = n_pages(d), .table = d->table, .lens = &length};
    for (int i = 0; i < n; i++)
        memcpy(d->x + (size_t)i * width, m->params + tokens[i] * width, width * sizeof(float));
    for (int l = 0; l < c->n_layers; l++) {
        d->pass.attention.pages = &pages;
        d->pass.attention.k = d->cache[l].k;
        d->pass.attention.v = d->cache[l].v;
        d->pass.attention.ki = d->cache[l].ki;
        memcpy(d->pass.x, d->x, (size_t)n * width * sizeof(float));
        block_forward(m, l, d->ops, &s, mode_of(c), &d->pass, d->x, d->work);
    }
    d->length += n;
}

const float *model_decode(model_decoder *d, const uint8_t *tokens, int n)
{
    if (n < 1 || n > d->max_len - d->length)
        return NULL;
    const model *m = d->m;
    const int width = m->config.d_model;
    int last = 0;
    for (int done = 0; done < n; done += last) {
        last = n - done < CHUNK ? n - done : CHUNK;
        append(d, tokens + done, last);
    }
    must(msa_rmsnorm(1, width, m->config.eps, d->x + (last - 1) * width, final_norm(m, m->params),
                     d->pass.mlp_in));
    d->ops->gemm(false, false, 1, MODEL_VOCAB, width, d->pass.mlp_in, head(m, m->params), 0, d->logits);
    return d->logits;
}
