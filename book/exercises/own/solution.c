/* A small MSA, whole: an answer to the nine steps. */
#include "own.h"

static double dot(const float *x, const float *y, int width)
{
    double sum = 0;
    for (int c = 0; c < width; c++)
        sum += (double)x[c] * (double)y[c];
    return sum;
}

/* ---- Step 1: dense attention of one head -------------------------------------------------------------------- */

/* [attend] */
void attend(const float *q, const float *k, const float *v, int n, int stride, int width, float *o)
{
    const double scale = 1 / sqrt(width);
    double p[n], max = -INFINITY, sum = 0;
    for (int j = 0; j < n; j++) {
        p[j] = scale * dot(q, k + j * stride, width);
        max = fmax(max, p[j]);
    }
    for (int j = 0; j < n; j++)
        sum += p[j] = exp(p[j] - max);
    for (int c = 0; c < width; c++) {
        double acc = 0;
        for (int j = 0; j < n; j++)
            acc += p[j] * (double)v[j * stride + c];
        o[c] = (float)(acc / sum);
    }
}
/* [attend] */

/* ---- Step 2: groups ----------------------------------------------------------------------------------------- */

/* [attend_heads] */
void attend_heads(const shape *s, const float *q, const float *k, const float *v, int n, float *o)
{
    const int group = s->heads / s->kv_heads, width = s->width;
    for (int h = 0; h < s->heads; h++) {
        const int from = h / group * width; /* its KV head within a token */
        attend(q + h * width, k + from, v + from, n, s->kv_heads * width, width, o + h * width);
    }
}
/* [attend_heads] */

/* ---- Step 3: a softmax that runs along ---------------------------------------------------------------------- */

/* [running] */
void running_merge(running *r, const running *other)
{
    const double max = fmax(r->max, other->max);
    if (max == -INFINITY)
        return; /* nothing was seen by either: no -inf - -inf */
    const double keep = exp(r->max - max), take = exp(other->max - max);
    r->sum = r->sum * keep + other->sum * take;
    for (int c = 0; c < r->width; c++)
        r->value[c] = r->value[c] * keep + other->value[c] * take;
    r->max = max;
}

void running_add(running *r, double logit, const float *value)
{
    double one[r->width];
    for (int c = 0; c < r->width; c++)
        one[c] = (double)value[c];
    running_merge(r, &(running){logit, 1, one, r->width});
}

double running_end(const running *r, float *o)
{
    for (int c = 0; c < r->width; c++)
        o[c] = (float)(r->value[c] / r->sum);
    return r->max + log(r->sum);
}
/* [running] */

/* ---- Step 4: block scores ----------------------------------------------------------------------------------- */

/* [score_blocks] */
void score_blocks(const shape *s, const float *qi, const float *ki, int n, float *scores)
{
    const double scale = 1 / sqrt(s->index_width);
    for (int first = 0; first < n; first += s->block) {
        double max = -INFINITY;
        for (int j = first; j < first + s->block && j < n; j++)
            max = fmax(max, scale * dot(qi, ki + j * s->index_width, s->index_width));
        scores[first / s->block] = (float)max;
    }
}
/* [score_blocks] */

/* ---- Step 5: the choice ------------------------------------------------------------------------------------- */

/* [choose] */
void choose(const shape *s, const float *scores, int blocks, int *ids)
{
    char taken[blocks];
    memset(taken, 0, (size_t)blocks);
    taken[blocks - 1] = 1; /* the local one, whatever its score */
    for (int left = s->topk - 1; left > 0; left--) {
        int best = -1;
        for (int b = 0; b < blocks; b++) /* the first of equal ones stays */
            if (!taken[b] && (best < 0 || scores[b] > scores[best]))
                best = b;
        if (best >= 0)
            taken[best] = 1;
    }
    int n = 0;
    for (int b = 0; b < blocks; b++)
        if (taken[b])
            ids[n++] = b;
    while (n < s->topk)
        ids[n++] = -1;
}
/* [choose] */

/* ---- Step 6: attention to the chosen blocks ----------------------------------------------------------------- */

/* [attend_blocks] */
/* The visible keys of the chosen blocks: how many; tokens has room for topk * block. */
static int list_tokens(const shape *s, int n, const int *ids, int *tokens)
{
    int count = 0;
    for (int a = 0; a < s->topk && ids[a] >= 0; a++)
        for (int j = ids[a] * s->block; j < (ids[a] + 1) * s->block && j < n; j++)
            tokens[count++] = j;
    return count;
}

void attend_blocks(const shape *s, const float *q, const float *k, const float *v, int n, const int *ids,
                   float *o)
{
    const int width = s->width, stride = s->kv_heads * width;
    int tokens[s->topk * s->block];
    const int count = list_tokens(s, n, ids, tokens);
    for (int h = 0; h < s->heads / s->kv_heads; h++) {
        double value[width];
        memset(value, 0, sizeof value);
        running r = {-INFINITY, 0, value, width};
        for (int a = 0; a < count; a++) {
            const int at = tokens[a] * stride;
            running_add(&r, dot(q + h * width, k + at, width) / sqrt(width), v + at);
        }
        running_end(&r, o + h * width);
    }
}
/* [attend_blocks] */

/* ---- Step 7: all of it, and what it reads ------------------------------------------------------------------- */

/* [msa] */
void msa(const shape *s, const float *q, const float *qi, const float *k, const float *v, const float *ki,
         int n, float *o)
{
    const int group = s->heads / s->kv_heads, blocks = (n + s->block - 1) / s->block;
    float scores[blocks];
    int ids[s->topk];
    for (int r = 0; r < s->kv_heads; r++) {
        const int heads = r * group * s->width;
        score_blocks(s, qi + r * s->index_width, ki, n, scores);
        choose(s, scores, blocks, ids);
        attend_blocks(s, q + heads, k + r * s->width, v + r * s->width, n, ids, o + heads);
    }
}

int64_t msa_reads(const shape *s, int n)
{
    const int local = (n - 1) / s->block, others = local < s->topk - 1 ? local : s->topk - 1;
    const int64_t chosen = (int64_t)others * s->block + n - local * s->block;
    return (int64_t)n * s->index_width + chosen * s->kv_heads * 2 * s->width;
}
/* [msa] */

/* ---- Step 8: the loss of the index -------------------------------------------------------------------------- */

/* [index_loss] */
/* In place: logits become log(softmax). */
static void log_softmax(double *x, int n)
{
    double max = -INFINITY, sum = 0;
    for (int a = 0; a < n; a++)
        max = fmax(max, x[a]);
    for (int a = 0; a < n; a++)
        sum += exp(x[a] - max);
    for (int a = 0; a < n; a++)
        x[a] -= max + log(sum);
}

double index_loss(const shape *s, const float *q, const float *qi, const float *k, const float *ki, int n,
                  const int *ids, float *dqi, float *dki)
{
    const int group = s->heads / s->kv_heads, width = s->width, di = s->index_width;
    int tokens[s->topk * s->block];
    const int count = list_tokens(s, n, ids, tokens);
    double t[count], u[count], p[count], loss = 0, acc[di];
    memset(t, 0, sizeof t);
    memset(acc, 0, sizeof acc);
    memset(dki, 0, (size_t)(n * di) * sizeof *dki);
    for (int h = 0; h < group; h++) {
        for (int a = 0; a < count; a++)
            p[a] = dot(q + h * width, k + tokens[a] * s->kv_heads * width, width) / sqrt(width);
        log_softmax(p, count);
        for (int a = 0; a < count; a++)
            t[a] += exp(p[a]) / group; /* a mean of probabilities */
    }
    for (int a = 0; a < count; a++)
        u[a] = dot(qi, ki + tokens[a] * di, di) / sqrt(di);
    log_softmax(u, count);
    for (int a = 0; a < count; a++) {
        if (t[a] > 0)
            loss += t[a] * (log(t[a]) - u[a]);
        const double slope = (exp(u[a]) - t[a]) / sqrt(di); /* dL / d(qi . ki) */
        for (int c = 0; c < di; c++) {
            acc[c] += slope * (double)ki[tokens[a] * di + c];
            dki[tokens[a] * di + c] = (float)(slope * (double)qi[c]);
        }
    }
    for (int c = 0; c < di; c++)
        dqi[c] = (float)acc[c];
    return loss;
}
/* [index_loss] */

/* ---- The rest of the model: given --------------------------------------------------------------------------- */

/* y = x w, with w [in,out]. */
static void multiply(const float *x, int in, const float *w, int out, float *y)
{
    memset(y, 0, (size_t)out * sizeof *y);
    for (int a = 0; a < in; a++)
        for (int c = 0; c < out; c++)
            y[c] += x[a] * w[a * out + c];
}

/* Divided by its root mean square; the gain is 1 + g. */
static void norm(const float *x, const float *g, int width, double eps, float *y)
{
    double sum = 0;
    for (int c = 0; c < width; c++)
        sum += (double)x[c] * (double)x[c];
    const double inverse = 1 / sqrt(sum / width + eps);
    for (int c = 0; c < width; c++)
        y[c] = (float)((double)x[c] * inverse * (1 + (double)g[c]));
}

/* Rotary embedding: of the first half of the channels, pairs turn by an angle that grows with the position, so that
 * the dot product of a query and a key tells how far apart they are. */
static void rotate(float *x, int width, int position, double theta)
{
    const int pairs = width / 4;
    for (int i = 0; i < pairs; i++) {
        const double angle = position * pow(theta, -(double)i / pairs), c = cos(angle), s = sin(angle);
        const double a = (double)x[i], b = (double)x[i + pairs];
        x[i] = (float)(a * c - b * s);
        x[i + pairs] = (float)(b * c + a * s);
    }
}

/* Some heads at a position: a product, then norm and rotation of each. */
static void project_heads(const network *w, const float *x, const float *matrix, const float *gain, int heads,
                          int width, int position, float *y)
{
    multiply(x, w->model, matrix, heads * width, y);
    for (int h = 0; h < heads; h++) {
        norm(y + h * width, gain, width, w->eps, y + h * width);
        rotate(y + h * width, width, position, w->theta);
    }
}

/* x += w_down (silu(gate) up), silu(g) = g / (1 + e^-g) */
static void add_mlp(const network *w, const layer *l, float *x)
{
    float in[w->model], gate[w->hidden], up[w->hidden], out[w->model];
    norm(x, l->mlp_norm, w->model, w->eps, in);
    multiply(in, w->model, l->w_gate, w->hidden, gate);
    multiply(in, w->model, l->w_up, w->hidden, up);
    for (int c = 0; c < w->hidden; c++)
        gate[c] = gate[c] / (1 + expf(-gate[c])) * up[c];
    multiply(gate, w->hidden, l->w_down, w->model, out);
    for (int c = 0; c < w->model; c++)
        x[c] += out[c];
}

void next_byte(const network *w, int position, uint8_t byte, float *logits)
{
    float x[w->model], in[w->model], out[w->model];
    memcpy(x, w->embed + byte * w->model, sizeof x);
    for (int l = 0; l < w->layers; l++) {
        norm(x, w->layer[l].attn_norm, w->model, w->eps, in);
        attention(w, &w->layer[l], position, in, out);
        for (int c = 0; c < w->model; c++)
            x[c] += out[c];
        add_mlp(w, &w->layer[l], x);
    }
    norm(x, w->final_norm, w->model, w->eps, in);
    multiply(in, w->model, w->head, 256, logits);
}

/* ---- Step 9: a layer of the model --------------------------------------------------------------------------- */

/* [attention] */
void attention(const network *w, const layer *l, int position, const float *x, float *y)
{
    const shape *s = &w->s;
    const int kv = s->kv_heads * s->width;
    float q[s->heads * s->width], qi[s->kv_heads * s->index_width], o[s->heads * s->width];
    project_heads(w, x, l->wq, l->q_norm, s->heads, s->width, position, q);
    project_heads(w, x, l->wk, l->k_norm, s->kv_heads, s->width, position, l->k + position * kv);
    multiply(x, w->model, l->wv, kv, l->v + position * kv);
    project_heads(w, x, l->wiq, l->iq_norm, s->kv_heads, s->index_width, position, qi);
    project_heads(w, x, l->wik, l->ik_norm, 1, s->index_width, position, l->ki + position * s->index_width);
    msa(s, q, qi, l->k, l->v, l->ki, position + 1, o);
    multiply(o, s->heads * s->width, l->wo, w->model, y);
}
/* [attention] */
