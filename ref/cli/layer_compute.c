/* A layer of a checkpoint, step by step:
 *
 *   x = norm(hidden) or hidden   q, k, v, qi, ki = x W^T   norm and rotation of all but v   y = attention W_o^T
 *
 * Weights are read as they are needed, a tile of rows at a time; memory holds activations and one tile. */
#include <stdlib.h>
#include <string.h>

#include "layer.h"

static int say(const layer_run *r, msa_status status)
{
    return status == MSA_OK
               ? 0
               : cli_fail(r->q.name, "layer %lld: %s", (long long)r->q.layer, msa_strerror(status));
}

static int project(const layer_run *r, checkpoint_part part, const float *x, float *y)
{
    static const char *const names[CHECKPOINT_N_PARTS] = {[CHECKPOINT_Q] = "q_proj",
                                                          [CHECKPOINT_K] = "k_proj",
                                                          [CHECKPOINT_V] = "v_proj",
                                                          [CHECKPOINT_O] = "o_proj",
                                                          [CHECKPOINT_INDEX_Q] = "index q_proj",
                                                          [CHECKPOINT_INDEX_K] = "index k_proj"};
    io_error err;
    cli_progress(r->q.name, part, CHECKPOINT_N_PARTS, names[part]);
    return checkpoint_project(&r->layer.weight[part], r->t.shape.n_q, x, y, err)
               ? 0
               : cli_fail(r->q.name, "%s", err);
}

/* y = x / rms(x) (1 + w), rows of `heads` heads a token. */
static int norm(const layer_run *r, checkpoint_part part, int heads, const float *x, float *y)
{
    const checkpoint_weight *w = &r->layer.weight[part];
    io_error err;
    float *gain = cli_alloc(r->q.name, (size_t)w->cols * sizeof *gain);
    if (!gain)
        return 2;
    int bad = checkpoint_read_gain(w, gain, err) ? 0 : cli_fail(r->q.name, "%s", err);
    if (!bad)
        bad = say(r, msa_rmsnorm(r->t.shape.n_q * heads, (int)w->cols, r->c.config.eps, x, gain, y));
    free(gain);
    return bad;
}

/* Projection, norm and rotation of heads of one kind. The index's turn by the table of the main heads, unless a
 * width of their own was asked for. */
static int project_heads(const layer_run *r, checkpoint_part part, checkpoint_part gain, const float *x,
                         float *y)
{
    const checkpoint_config *c = &r->c.config;
    const bool own = r->q.index_rot >= 0 && part >= CHECKPOINT_INDEX_Q;
    const checkpoint_rotation turn = {own ? (int)r->q.index_rot : c->rot, c->theta, r->q.exact};
    const int d = (int)r->layer.weight[gain].cols, heads = (int)(r->layer.weight[part].rows / d);
    int bad = project(r, part, x, y);
    bad = bad ? bad : norm(r, gain, heads, y, y);
    return bad ? bad : say(r, checkpoint_turn(&turn, r->t.shape.n_q, heads, d, r->pos, y));
}

static int attend(layer_run *r)
{
    const layer_request *q = &r->q;
    const cli_output *out = r->out;
    const msa_kernel *dense = r->plan.ops.stage[MSA_STAGE_DENSE];
    const bool sparse = r->layer.sparse;
    void *work =
        cli_alloc(q->name, sparse ? msa_workspace(&r->plan.ops, &r->t.shape) : dense->workspace(&r->t.shape));
    if (!work)
        return 2;
    int bad;
    if (sparse) {
        bad = cli_attend(q->name, &r->plan, &r->t,
                         &(cli_attended){.ids = out[OUT_IDS].data,
                                         .index_lse = out[OUT_INDEX_LSE].data,
                                         .o = out[OUT_O].data,
                                         .lse = out[OUT_LSE].data},
                         work);
    } else {
        const msa_arrays a = {.q = out[OUT_Q].data,
                              .k = out[OUT_K].data,
                              .v = out[OUT_V].data,
                              .o = out[OUT_O].data,
                              .lse = out[OUT_LSE].data};
        bad = cli_ran(q->name, &r->plan, &r->t.shape, MSA_STAGE_DENSE, dense->run(&r->t.shape, &a, work));
    }
    free(work);
    return bad;
}

/* Where the rows of this call's tokens begin, behind those of earlier ones. */
static float *after_past(const layer_run *r, int past, int output)
{
    const npy_array *a = &r->past[past];
    float *rows = r->out[output].data;
    if (a->count)
        memcpy(rows, a->data, a->count * sizeof *rows);
    return rows + a->count;
}

static int project_inputs(const layer_run *r, const float *x)
{
    float *k = after_past(r, PAST_K, OUT_K), *v = after_past(r, PAST_V, OUT_V);
    int bad = project_heads(r, CHECKPOINT_Q, CHECKPOINT_Q_NORM, x, r->out[OUT_Q].data);
    bad = bad ? bad : project_heads(r, CHECKPOINT_K, CHECKPOINT_K_NORM, x, k);
    bad = bad ? bad : project(r, CHECKPOINT_V, x, v);
    if (bad || !r->layer.sparse)
        return bad;
    bad = project_heads(r, CHECKPOINT_INDEX_Q, CHECKPOINT_INDEX_Q_NORM, x, r->out[OUT_QI].data);
    return bad ? bad
               : project_heads(r, CHECKPOINT_INDEX_K, CHECKPOINT_INDEX_K_NORM, x,
                               after_past(r, PAST_KI, OUT_KI));
}

/* Hands what was computed to the stages, as if it had come from files. */
static void name_tensors(layer_run *r)
{
    static const struct {
        cli_tensor tensor;
        int output;
    } pair[] = {{CLI_Q, OUT_Q}, {CLI_K, OUT_K}, {CLI_V, OUT_V}, {CLI_QI, OUT_QI}, {CLI_KI, OUT_KI}};
    for (size_t i = 0; i < (r->layer.sparse ? 5 : 3); i++) {
        r->t.path[pair[i].tensor] = r->out[pair[i].output].name;
        r->t.array[pair[i].tensor].data = r->out[pair[i].output].data;
    }
}

int layer_compute(layer_run *r)
{
    const layer_request *q = &r->q;
    const size_t count = (size_t)r->t.shape.n_q * (size_t)r->c.config.d_model;
    float *x = r->hidden.data, *y = r->out[OUT_Y].data, *sum = r->out[OUT_RESIDUAL].data;
    float *normed = q->residual ? cli_alloc(q->name, count * sizeof *normed) : NULL;
    int bad = q->residual && !normed ? 2 : 0;
    if (normed && !bad)
        bad = norm(r, CHECKPOINT_INPUT_NORM, 1, x, normed);
    bad = bad ? bad : project_inputs(r, normed ? normed : x);
    free(normed);
    name_tensors(r);
    bad = bad ? bad : attend(r);
    bad = bad ? bad : project(r, CHECKPOINT_O, r->out[OUT_O].data, y);
    for (size_t i = 0; q->residual && !bad && i < count; i++)
        sum[i] = x[i] + y[i];
    cli_progress_end();
    return bad;
}
