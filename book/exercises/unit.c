/**
 * @file unit.c
 * @brief The machine of the exercises on tiles: see unit.h. The answer's process sends orders, the judge's carries them
 *        out on memory that the other does not have.
 */
#include "unit.h"

#define AT_ONCE /* an answer may write again what its products took */
#include "../../ref/fast/panels.h"

typedef enum order_kind {
    PUT,
    ZERO,
    PRODUCT,
    LOAD_KEYS,
    LOAD_QUERIES,
    LOAD_VALUES,
    LOAD_WEIGHTS,
    LOAD_OUTPUT,
    STORE_OUTPUT,
    STORE_LOGITS,
    READ,
    MAXIMA,
    WEIGH,
    SCALE
} order_kind;

/* What both processes see: an order, and what comes back. */
typedef struct order {
    order_kind kind;
    int64_t x[4];
    float lanes[UNIT_ROWS];
    float tile[UNIT_ROWS * UNIT_ROWS];
} order;
static order *mail;

typedef struct machine {
    tiles t;
    uint32_t filled[UNIT_TILES], put[UNIT_PANELS]; /* columns */
    int steps;
    int64_t keys, queries, heads, width;
    uint16_t *q;
    tile_rows *k, *v;          /* [keys/16][steps], [keys/32][2 steps] */
    tile_rows *panel, *output; /* [UNIT_PANELS][steps], [2 steps] */
    tile_rows logits[2], weights;
    uint64_t exponentials, scaled, read;
    int64_t key; /* near which it is at work */
    unit_note_fn *note;
} machine;
static machine *here;

/* ---- The judge's process ------------------------------------------------------------------------------------------ */

/* Whether x is below n, and a multiple of `of`; else the answer is told. */
static bool fits(const char *what, int64_t x, int64_t n, int of)
{
    const bool ok = x >= 0 && x < n && x % of == 0;
    if (of == 1)
        exercise_true(ok, "%s: expected 0 to %lld, found %lld", what, (long long)n - 1, (long long)x);
    else
        exercise_true(ok, "%s: expected a multiple of %d below %lld, found %lld", what, of, (long long)n,
                      (long long)x);
    return ok;
}

static bool is_tile(int64_t x)
{
    return fits("the number of a tile", x, UNIT_TILES, 1);
}

static void put(machine *m, const int64_t *x)
{
    if (!fits("unit_put(), panel", x[0], UNIT_PANELS, 1) || !fits("unit_put(), column", x[1], UNIT_ROWS, 1) ||
        !fits("unit_put(), query", x[2], m->queries, 1) || !fits("unit_put(), head", x[3], m->heads, 1))
        return;
    tile_rows *to = m->panel + x[0] * m->steps;
    if (x[1] == 0) {
        memset(to, 0, (size_t)m->steps * sizeof *to);
        m->put[x[0]] = 0;
    }
    put_right(to, (int)x[1], m->q + (x[2] * m->heads + x[3]) * m->width, (int)m->width);
    m->put[x[0]] |= 1u << x[1];
}

static void product(machine *m, const int64_t *x)
{
    if (!is_tile(x[0]) || !is_tile(x[1]) || !is_tile(x[2]))
        return;
    exercise_true(x[0] != x[1] && x[0] != x[2] && x[1] != x[2],
                  "unit_product(): expected three different tiles");
    tile_bf16(&m->t, (int)x[0], (int)x[1], (int)x[2]);
    m->note(UNIT_PRODUCT, m->key, m->filled[x[2]]);
}

static void load_tile(machine *m, int64_t n, const tile_rows *from, uint32_t columns)
{
    if (!is_tile(n))
        return;
    tile_load(&m->t, (int)n, from, TILE_BYTES);
    m->filled[n] = columns;
    m->note(UNIT_LOAD, m->key, columns);
}

static void store_tile(machine *m, int64_t n, tile_rows *to)
{
    if (is_tile(n))
        tile_store(&m->t, (int)n, to, TILE_BYTES);
}

static void weigh(machine *m, int half)
{
    const float scale = (float)(1.4426950408889634 / sqrt((double)m->width));
    float sum[UNIT_ROWS] = {0};
    for (int key = 0; key < UNIT_ROWS; key++)
        for (int l = 0; l < UNIT_ROWS; l++) {
            const float p = exp2f(((const float *)m->logits[half].word[key])[l] * scale - mail->lanes[l]);
            const uint32_t bits = msa_bf16_bits(p);
            uint32_t *pair = &m->weights.word[half * 8 + key / 2][l];
            *pair = key % 2 ? *pair | bits << 16 : bits;
            sum[l] += p;
        }
    memcpy(mail->lanes, sum, sizeof sum);
    m->exponentials += UNIT_ROWS;
    m->note(UNIT_POWERS, m->key, UINT16_MAX);
}

static void maxima(const machine *m, int half)
{
    const float scale = (float)(1.4426950408889634 / sqrt((double)m->width));
    for (int l = 0; l < UNIT_ROWS; l++)
        mail->lanes[l] = -INFINITY;
    for (int key = 0; key < UNIT_ROWS; key++)
        for (int l = 0; l < UNIT_ROWS; l++)
            mail->lanes[l] = fmaxf(mail->lanes[l], ((const float *)m->logits[half].word[key])[l] * scale);
}

static void scale_output(machine *m)
{
    for (int part = 0; part < 2 * m->steps; part++)
        for (int row = 0; row < UNIT_ROWS; row++)
            for (int l = 0; l < UNIT_ROWS; l++)
                ((float *)m->output[part].word[row])[l] *= mail->lanes[l];
    m->scaled++;
    m->note(UNIT_SCALING, m->key, UINT16_MAX);
}

/* Loads and stores of memory that has a place; x[0] is the tile. */
static void move(machine *m, order_kind kind, const int64_t *x)
{
    if (kind == LOAD_KEYS && fits("unit_load_keys(), key", x[1], m->keys, 16) &&
        fits("its step", x[2], m->steps, 1)) {
        m->key = x[1];
        load_tile(m, x[0], m->k + x[1] / 16 * m->steps + x[2], 0);
    }
    if (kind == LOAD_QUERIES && fits("unit_load_queries(), panel", x[1], UNIT_PANELS, 1) &&
        fits("its step", x[2], m->steps, 1))
        load_tile(m, x[0], m->panel + x[1] * m->steps + x[2], m->put[x[1]]);
    if (kind == LOAD_VALUES && fits("unit_load_values(), key", x[1], m->keys, 32) &&
        fits("its part", x[2], 2 * m->steps, 1)) {
        m->key = x[1];
        load_tile(m, x[0], m->v + x[1] / 32 * 2 * m->steps + x[2], 0);
    }
    if (kind == LOAD_WEIGHTS)
        load_tile(m, x[0], &m->weights, UINT16_MAX);
    if (kind == LOAD_OUTPUT && fits("unit_load_output(), part", x[1], 2 * m->steps, 1))
        load_tile(m, x[0], m->output + x[1], 0);
    if (kind == STORE_OUTPUT && fits("unit_store_output(), part", x[1], 2 * m->steps, 1))
        store_tile(m, x[0], m->output + x[1]);
    if (kind == STORE_LOGITS && fits("unit_store_logits(), half", x[1], 2, 1))
        store_tile(m, x[0], &m->logits[x[1]]);
}

static void carry_out(void *context, int64_t row_of, int64_t column)
{
    machine *m = context;
    const order_kind kind = mail->kind;
    int64_t x[4];
    (void)row_of, (void)column;
    memcpy(x, mail->x, sizeof x);
    switch (kind) {
    case PUT:
        put(m, x);
        return;
    case ZERO:
        if (is_tile(x[0]))
            tile_zero(&m->t, (int)x[0]);
        return;
    case PRODUCT:
        product(m, x);
        return;
    case READ:
        if (is_tile(x[0]))
            memcpy(mail->tile, &m->t.tile[x[0]], sizeof mail->tile);
        m->read++;
        return;
    case MAXIMA:
        if (fits("unit_maxima(), half", x[0], 2, 1))
            maxima(m, (int)x[0]);
        return;
    case WEIGH:
        if (fits("unit_weigh(), half", x[0], 2, 1))
            weigh(m, (int)x[0]);
        return;
    case SCALE:
        scale_output(m);
        return;
    default:
        move(m, kind, x);
    }
}

static uint16_t *halves_of(const float *x, int64_t n)
{
    uint16_t *half = exercise_alloc(n * (int64_t)sizeof *half);
    for (int64_t i = 0; i < n; i++)
        half[i] = msa_bf16_bits(x[i]);
    return half;
}

static tile_rows *tiles_of(int64_t n)
{
    return memset(exercise_alloc(n * (int64_t)sizeof(tile_rows)), 0, (size_t)n * sizeof(tile_rows));
}

void unit_open(const msa_shape *s, const inputs *in, unit_note_fn *note)
{
    const int d = s->d_head, steps = steps_of(d);
    if (!mail)
        mail = answer_shared(sizeof *mail);
    here = memset(exercise_alloc(sizeof *here), 0, sizeof *here);
    *here = (machine){
        .steps = steps, .keys = s->n_kv, .queries = s->n_q, .heads = s->n_heads, .width = d, .note = note};
    tiles_begin(&here->t);
    here->q = halves_of(in->q, s->n_q * s->n_heads * d);
    here->k = tiles_of((s->n_kv + 15) / 16 * steps);
    here->v = tiles_of((s->n_kv + 31) / 32 * 2 * steps);
    here->panel = tiles_of(UNIT_PANELS * steps);
    here->output = tiles_of(2 * steps);
    const uint16_t *k = halves_of(in->k, s->n_kv * d), *v = halves_of(in->v, s->n_kv * d);
    for (int64_t j = 0; j < s->n_kv; j++)
        put_left(here->k + j / 16 * steps, (int)(j % 16), k + j * d, d);
    for (int64_t j = 0; j < s->n_kv; j += UNIT_STEP) {
        const uint16_t *row_at[TILE_HALVES] = {NULL};
        for (int64_t a = 0; a < UNIT_STEP && j + a < s->n_kv; a++)
            row_at[a] = v + (j + a) * d;
        put_turned(here->v + j / 32 * 2 * steps, row_at, d);
    }
    answer_offer(&(answer_source){mail, 1, 1, 0, "an order of the unit", carry_out, here});
}

unit_counts unit_counted(void)
{
    const tile_counts *n = &here->t.n;
    return (unit_counts){(uint64_t)n->products, (uint64_t)n->loads, here->read, here->exponentials,
                         here->scaled};
}

/* ---- The answer's process ----------------------------------------------------------------------------------------- */

static void send(order_kind kind, int64_t x0, int64_t x1, int64_t x2, int64_t x3)
{
    mail->kind = kind;
    memcpy(mail->x, (int64_t[]){x0, x1, x2, x3}, sizeof mail->x);
    answer_ask(mail, 0, 0);
}

void unit_put(int panel, int column, int64_t query, int head)
{
    send(PUT, panel, column, query, head);
}

void unit_zero(int n)
{
    send(ZERO, n, 0, 0, 0);
}

void unit_product(int sum, int left, int right)
{
    send(PRODUCT, sum, left, right, 0);
}

void unit_load_keys(int n, int64_t key, int step)
{
    send(LOAD_KEYS, n, key, step, 0);
}

void unit_load_queries(int n, int panel, int step)
{
    send(LOAD_QUERIES, n, panel, step, 0);
}

void unit_load_values(int n, int64_t key, int part)
{
    send(LOAD_VALUES, n, key, part, 0);
}

void unit_load_weights(int n)
{
    send(LOAD_WEIGHTS, n, 0, 0, 0);
}

void unit_load_output(int n, int part)
{
    send(LOAD_OUTPUT, n, part, 0, 0);
}

void unit_store_output(int n, int part)
{
    send(STORE_OUTPUT, n, part, 0, 0);
}

void unit_store_logits(int n, int half)
{
    send(STORE_LOGITS, n, half, 0, 0);
}

const float *unit_read(int n)
{
    send(READ, n, 0, 0, 0);
    return mail->tile;
}

void unit_maxima(int half, float max[UNIT_ROWS])
{
    send(MAXIMA, half, 0, 0, 0);
    memcpy(max, mail->lanes, sizeof mail->lanes);
}

void unit_weigh(int half, const float max[UNIT_ROWS], float sum[UNIT_ROWS])
{
    memcpy(mail->lanes, max, sizeof mail->lanes);
    send(WEIGH, half, 0, 0, 0);
    memcpy(sum, mail->lanes, sizeof mail->lanes);
}

void unit_scale_output(const float factor[UNIT_ROWS])
{
    memcpy(mail->lanes, factor, sizeof mail->lanes);
    send(SCALE, 0, 0, 0, 0);
}
