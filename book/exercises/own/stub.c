/* Your own MSA. It grows by one function a chapter: own.h says what each is to do, `make own STEP=3` judges the first
 * three steps, and `make own` all nine, after which this file continues a text. Helpers of your own are welcome. */
#include "own.h"

/* ---- Step 1: dense attention of one head -------------------------------------------------------------------- */

void attend(const float *q, const float *k, const float *v, int n, int stride, int width, float *o)
{
    (void)q, (void)k, (void)v, (void)n, (void)stride, (void)width, (void)o; /* yours */
}

/* ---- Step 2: groups ----------------------------------------------------------------------------------------- */

void attend_heads(const shape *s, const float *q, const float *k, const float *v, int n, float *o)
{
    (void)s, (void)q, (void)k, (void)v, (void)n, (void)o; /* yours */
}

/* ---- Step 3: a softmax that runs along ---------------------------------------------------------------------- */

void running_add(running *r, double logit, const float *value)
{
    (void)r, (void)logit, (void)value; /* yours */
}

void running_merge(running *r, const running *other)
{
    (void)r, (void)other; /* yours */
}

double running_end(const running *r, float *o)
{
    (void)r, (void)o; /* yours */
    return 0;
}

/* ---- Step 4: block scores ----------------------------------------------------------------------------------- */

void score_blocks(const shape *s, const float *qi, const float *ki, int n, float *scores)
{
    (void)s, (void)qi, (void)ki, (void)n, (void)scores; /* yours */
}

/* ---- Step 5: the choice ------------------------------------------------------------------------------------- */

void choose(const shape *s, const float *scores, int blocks, int *ids)
{
    (void)s, (void)scores, (void)blocks, (void)ids; /* yours */
}

/* ---- Step 6: attention to the chosen blocks ----------------------------------------------------------------- */

void attend_blocks(const shape *s, const float *q, const float *k, const float *v, int n, const int *ids,
                   float *o)
{
    (void)s, (void)q, (void)k, (void)v, (void)n, (void)ids, (void)o; /* yours */
}

/* ---- Step 7: all of it, and what it reads ------------------------------------------------------------------- */

void msa(const shape *s, const float *q, const float *qi, const float *k, const float *v, const float *ki,
         int n, float *o)
{
    (void)s, (void)q, (void)qi, (void)k, (void)v, (void)ki, (void)n, (void)o; /* yours */
}

int64_t msa_reads(const shape *s, int n)
{
    (void)s, (void)n; /* yours */
    return 0;
}

/* ---- Step 8: the loss of the index -------------------------------------------------------------------------- */

double index_loss(const shape *s, const float *q, const float *qi, const float *k, const float *ki, int n,
                  const int *ids, float *dqi, float *dki)
{
    (void)s, (void)q, (void)qi, (void)k, (void)ki, (void)n, (void)ids, (void)dqi, (void)dki; /* yours */
    return 0;
}

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

void attention(const network *w, const layer *l, int position, const float *x, float *y)
{
    const shape *s = &w->s;
    float q[s->heads * s->width];
    project_heads(w, x, l->wq, l->q_norm, s->heads, s->width, position, q);
    multiply(q, s->heads * s->width, l->wo, w->model,
             y); /* keys, values, index and msa() in between: yours */
}
