/* A whole forward and backward pass of the model over a batch of sequences. */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

struct model_run {
    msa_ops ops;
    int n_seqs, length;
    int64_t n;         /* tokens */
    const int *scored; /* which targets count; NULL: all */
    int64_t n_scored;  /* of the whole batch, of which this is a part; 0: of this */
    int32_t *cu;
    msa_shape shape;
    block_state *block; /* [n_layers] */
    float *x, *normed, *logits;
    float *dlogits, *dx, *grads; /* training only */
    block_scratch scratch;
    void *work;
    void *memory; /* of all tensors above */
};

static size_t place(const model *m, model_run *r, bool train, void *memory)
{
    const model_config *c = &m->config;
    const int64_t n = r->n, d = c->d_model, ff = c->d_ff;
    const msa_layer_config lc = attention_config(c);
    arena a = arena_over(memory);
    for (int l = 0; l < c->n_layers; l++) {
        place_block(c, n, &r->block[l], &a);
        place_cache(c, n, sizeof(float), &r->block[l].attention, &a);
    }
    r->x = arena_take(&a, n * d, sizeof(float));
    r->normed = arena_take(&a, n * d, sizeof(float));
    r->logits = arena_take(&a, n * MODEL_VOCAB, sizeof(float));
    r->work = arena_take(&a, 1, msa_layer_workspace(&r->ops, &r->shape, &lc));
    if (!train)
        return arena_bytes(&a);
    r->dlogits = arena_take(&a, n * MODEL_VOCAB, sizeof(float));
    r->dx = arena_take(&a, n * d, sizeof(float));
    r->grads = arena_take(&a, (int64_t)m->n_params, sizeof(float));
    r->scratch.wide1 = arena_take(&a, n * ff, sizeof(float));
    r->scratch.wide2 = arena_take(&a, n * ff, sizeof(float));
    r->scratch.wide3 = arena_take(&a, n * ff, sizeof(float));
    r->scratch.narrow = arena_take(&a, n * d, sizeof(float));
    r->scratch.channel = arena_take(&a, d, sizeof(double));
    r->scratch.grads = r->grads;
    r->scratch.work = r->work;
    return arena_bytes(&a);
}

model_run *model_run_at(const model *m, const msa_ops *ops, int n_seqs, int length, const int32_t *at,
                        bool train)
{
    if ((int64_t)n_seqs * length > INT32_MAX)
        return NULL;
    model_run *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->ops = *ops;
    r->n_seqs = n_seqs;
    r->length = length;
    r->n = (int64_t)n_seqs * length;
    r->block = calloc((size_t)m->config.n_layers, sizeof *r->block);
    r->cu = calloc((size_t)n_seqs + 1, sizeof *r->cu);
    if (!r->block || !r->cu) {
        model_run_free(r);
        return NULL;
    }
    for (int b = 0; b <= n_seqs; b++)
        r->cu[b] = (int32_t)(b * length);
    r->shape = attention_shape(&m->config, r->n, r->n);
    r->shape.n_seqs = n_seqs;
    r->shape.cu_q = r->shape.cu_kv = r->cu;
    if (msa_check_shape(&r->shape) == MSA_OK) {
        const size_t bytes = place(m, r, train, NULL);
        const double moments = train ? 2.0 * (double)m->n_params * sizeof(float) : 0; /* come next */
        if ((double)bytes + moments <= io_memory_left())
            r->memory = aligned_alloc(ARENA_ALIGN, bytes);
    }
    if (!r->memory) {
        model_run_free(r);
        return NULL;
    }
    place(m, r, train, r->memory);
    for (int l = 0; l < m->config.n_layers; l++)
        r->block[l].attention.at = at;
    return r;
}

model_run *model_run_new(const model *m, const msa_ops *ops, int n_seqs, int length, bool train)
{
    msa_ops own;
    return model_run_at(m, variant_ops(&m->config, ops, &own), n_seqs, length, NULL, train);
}

void model_run_free(model_run *r)
{
    if (!r)
        return;
    free(r->memory);
    free(r->block);
    free(r->cu);
    free(r);
}

static msa_attention effective(const model *m, msa_attention mode)
{
    return m->config.sparse ? mode : MSA_ATTN_DENSE;
}

void model_forward(const model *m, model_run *r, msa_attention mode, const uint8_t *tokens)
{
    const model_config *c = &m->config;
    const size_t d = (size_t)c->d_model;
    for (int64_t i = 0; i < r->n; i++)
        memcpy(r->block[0].x + (size_t)i * d, m->params + tokens[i] * d, d * sizeof(float));
    for (int l = 0; l < c->n_layers; l++) {
        float *out = l + 1 < c->n_layers ? r->block[l + 1].x : r->x;
        block_forward(m, l, &r->ops, &r->shape, effective(m, mode), &r->block[l], out, r->work);
    }
    must(msa_rmsnorm(r->n, c->d_model, c->eps, r->x, final_norm(m, m->params), r->normed));
    r->ops.gemm(false, false, r->n, MODEL_VOCAB, c->d_model, r->normed, head(m, m->params), 0, r->logits);
}

/* Natural-log loss of one row; with `grad`, also (softmax - onehot) * share. */
static double cross_entropy(const float *logits, uint8_t target, float share, float *grad)
{
    float max = logits[0];
    for (int v = 1; v < MODEL_VOCAB; v++)
        max = logits[v] > max ? logits[v] : max;
    float e[MODEL_VOCAB], sum = 0;
    for (int v = 0; v < MODEL_VOCAB; v++) {
        e[v] = expf(logits[v] - max);
        sum += e[v];
    }
    for (int v = 0; grad && v < MODEL_VOCAB; v++)
        grad[v] = share * (e[v] / sum - (v == target ? 1.0f : 0.0f));
    return log((double)sum) - (double)(logits[target] - max);
}

void model_run_score(model_run *r, const int *scored, int64_t n)
{
    r->scored = scored;
    r->n_scored = n;
}

static bool counts(const model_run *r, int64_t i)
{
    return !r->scored || r->scored[i];
}

static int64_t n_counted(const model_run *r)
{
    int64_t n = r->n_scored;
    for (int64_t i = 0; !r->n_scored && i < r->n; i++)
        n += counts(r, i);
    return n;
}

double model_loss(const model_run *r, const uint8_t *targets, float *nats)
{
    double total = 0;
    for (int64_t i = 0; i < r->n; i++) {
        double loss = cross_entropy(r->logits + i * MODEL_VOCAB, targets[i], 0, NULL);
        if (nats)
            nats[i] = (float)loss;
        total += counts(r, i) ? loss : 0;
    }
    return total / (double)n_counted(r);
}

void model_backward(const model *m, model_run *r, msa_attention mode, const uint8_t *tokens,
                    const uint8_t *targets, double lambda, double *kl)
{
    const model_config *c = &m->config;
    const int64_t n = r->n, d = c->d_model;
    const float share = 1 / (float)n_counted(r);
    memset(r->grads, 0, m->n_params * sizeof *r->grads);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++)
        cross_entropy(r->logits + i * MODEL_VOCAB, targets[i], counts(r, i) ? share : 0,
                      r->dlogits + i * MODEL_VOCAB);
    r->ops.gemm(true, false, d, MODEL_VOCAB, n, r->normed, r->dlogits, 1, head(m, r->grads));
    r->ops.gemm(false, true, n, d, MODEL_VOCAB, r->dlogits, head(m, m->params), 0, r->dx);
    must(msa_rmsnorm_backward(n, c->d_model, c->eps, r->x, final_norm(m, m->params), r->dx, r->dx,
                              final_norm(m, r->grads), r->scratch.channel));
    for (int l = c->n_layers - 1; l >= 0; l--)
        block_backward(m, l, &r->ops, &r->shape, effective(m, mode), &r->block[l], lambda, r->dx, &kl[l],
                       &r->scratch);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < d; j++)
            r->grads[tokens[i] * d + j] += r->dx[i * d + j];
}

float *model_run_grads(model_run *r)
{
    return r->grads;
}

const float *model_run_logits(const model_run *r)
{
    return r->logits;
}

msa_shape model_run_shape(const model_run *r)
{
    return r->shape;
}

const msa_layer_state *model_run_layer(const model_run *r, int layer)
{
    return &r->block[layer].attention;
}
