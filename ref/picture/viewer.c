/* Fills viewer.html with data: JSON whose texts and long arrays are base64 of bytes, so that nothing in a
 * file name or a text can end the <script> around it.
 *
 * A map has one byte a cell, a step on the logarithmic colour scale: fine enough to see and to print two
 * digits. Rows hold their visible blocks only, one after the other, which halves the page. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "canvas.h"
#include "viewer.h"

#define MAX_ROWS 2048 /* of more queries the page shows every second, third, ... */

static const unsigned char page_html[] = {
#include "ref/picture/viewer.inc"
};
static const char marker[] = "@DATA@";

struct viewer {
    viewer_page page;
    int64_t stride, rows, visible; /* queries from row to row; rows; cells of all rows together */
    int decades, views;
    bool failed; /* memory ran out */
    char *json;
    size_t used, capacity;
    unsigned char *packed; /* [visible] one map on its way to base64 */
};

/* ---- Text that grows ------------------------------------------------------------------------------ */

static char *reserve(viewer *v, size_t bytes)
{
    if (!v->failed && v->capacity - v->used < bytes) {
        size_t capacity = 2 * v->capacity + bytes;
        char *grown = realloc(v->json, capacity);
        v->failed = !grown;
        if (grown) {
            v->json = grown;
            v->capacity = capacity;
        }
    }
    return v->failed ? NULL : v->json + v->used;
}

static void put(viewer *v, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    size_t bytes = (size_t)vsnprintf(NULL, 0, format, args);
    char *to = reserve(v, bytes + 1);
    if (to) {
        vsnprintf(to, bytes + 1, format, again);
        v->used += bytes;
    }
    va_end(again);
    va_end(args);
}

static void put_base64(viewer *v, const void *data, size_t bytes)
{
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *in = data;
    const size_t length = (bytes + 2) / 3 * 4;
    char *out = reserve(v, length + 2);
    if (!out)
        return;
    *out++ = '"';
    for (size_t i = 0; i < bytes; i += 3, out += 4) {
        const size_t left = bytes - i;
        const unsigned three =
            (unsigned)in[i] << 16 | (left > 1 ? (unsigned)in[i + 1] << 8 : 0) | (left > 2 ? in[i + 2] : 0U);
        out[0] = digit[three >> 18];
        out[1] = digit[three >> 12 & 63];
        out[2] = left > 1 ? digit[three >> 6 & 63] : '=';
        out[3] = left > 2 ? digit[three & 63] : '=';
    }
    *out = '"';
    v->used += length + 2;
}

/* ---- Maps ----------------------------------------------------------------------------------------- */

static unsigned char byte_of(double level)
{
    return (unsigned char)(level > 0 ? lround(255 * level) : 0); /* and 0 for a NaN */
}

/* The visible cells of a map of shares in one group, a byte each. */
static void put_levels(viewer *v, const char *name, const maps *m, int group, const float *map)
{
    size_t at = 0;
    for (int64_t r = 0; r < v->rows; r++) {
        const float *row = map + maps_row(m, group, r * v->stride);
        for (int64_t b = 0; b <= maps_local(&m->shape, r * v->stride); b++)
            v->packed[at++] = byte_of(maps_level((double)row[b], v->decades));
    }
    put(v, ",\"%s\":", name);
    put_base64(v, v->packed, at);
}

static void put_fate(viewer *v, const maps *m, int group)
{
    size_t at = 0;
    for (int64_t r = 0; r < v->rows; r++) {
        const int32_t *row = m->fate + maps_row(m, group, r * v->stride);
        for (int64_t b = 0; b <= maps_local(&m->shape, r * v->stride); b++)
            v->packed[at++] = (unsigned char)row[b];
    }
    put(v, ",\"fate\":");
    put_base64(v, v->packed, at);
}

/* The log sum exp of every row's block scores: with it the page turns a share back into a score. */
static void put_lse(viewer *v, const maps *m, int group)
{
    put(v, ",\"lse\":[");
    for (int64_t r = 0; r < v->rows; r++) {
        const size_t row = maps_row(m, group, r * v->stride);
        size_t best = row;
        for (size_t at = row; at <= row + (size_t)maps_local(&m->shape, r * v->stride); at++)
            best = m->share[at] > m->share[best] ? at : best;
        double lse = (double)m->scores[best] - log((double)m->share[best]);
        put(v, "%s%.3f", r ? "," : "", isfinite(lse) ? lse : 0.0);
    }
    put(v, "]");
}

static void put_recall(viewer *v, const maps *m, int group)
{
    const int64_t queries = m->shape.n_q;
    double block_recall, score_recall;
    unsigned char *recall = malloc((size_t)(2 * v->rows));
    if (!recall) {
        v->failed = true;
        return;
    }
    for (int kind = 0; kind < 2; kind++)
        for (int64_t r = 0; r < v->rows; r++)
            recall[kind * v->rows + r] =
                byte_of((double)m->recall[(kind * m->shape.n_kv_heads + group) * queries + r * v->stride]);
    put(v, ",\"recall\":");
    put_base64(v, recall, (size_t)(2 * v->rows));
    free(recall);
    if (maps_recall(m, group, &block_recall, &score_recall) && isfinite(score_recall)) /* JSON has no NaN */
        put(v, ",\"block_recall\":%.4f,\"score_recall\":%.4f", block_recall, score_recall);
}

void viewer_add(viewer *v, const maps *m, int layer)
{
    for (int r = 0; r < m->shape.n_kv_heads; r++) {
        put(v, "%s\n{\"layer\":%d,\"group\":%d", v->views++ ? "," : "", layer, r);
        put_levels(v, "score", m, r, m->share);
        put_fate(v, m, r);
        put_lse(v, m, r);
        if (m->mass) {
            put_levels(v, "mass", m, r, m->mass);
            put_recall(v, m, r);
        }
        put(v, "}");
    }
}

/* ---- The page ------------------------------------------------------------------------------------- */

static void put_head(viewer *v)
{
    const msa_shape *s = &v->page.shape;
    unsigned char colours[3 * 256];
    for (int i = 0; i < 256; i++) {
        const rgb c = colormap(i / 255.0);
        memcpy(colours + 3 * i, (unsigned char[]){c.r, c.g, c.b}, 3);
    }
    put(v, "{\"source\":");
    put_base64(v, v->page.source, strlen(v->page.source));
    put(v, ",\"command\":");
    put_base64(v, v->page.command, strlen(v->page.command));
    put(v,
        ",\"queries\":%lld,\"keys\":%lld,\"block\":%d,\"topk\":%d,\"rows\":%lld,\"stride\":%lld,\"decades\":%"
        "d",
        (long long)s->n_q, (long long)s->n_kv, s->block, s->topk, (long long)v->rows, (long long)v->stride,
        v->decades);
    put(v, ",\"colormap\":");
    put_base64(v, colours, sizeof colours);
    put(v, ",\"text\":");
    if (v->page.text)
        put_base64(v, v->page.text, (size_t)s->n_kv);
    else
        put(v, "null");
    put(v, ",\"views\":[");
}

viewer *viewer_new(const viewer_page *page)
{
    viewer *v = calloc(1, sizeof *v);
    if (!v)
        return NULL;
    v->page = *page;
    v->stride = (page->shape.n_q + MAX_ROWS - 1) / MAX_ROWS;
    v->rows = (page->shape.n_q + v->stride - 1) / v->stride;
    for (int64_t r = 0; r < v->rows; r++)
        v->visible += maps_local(&page->shape, r * v->stride) + 1;
    v->decades = maps_decades(msa_n_blocks(&page->shape));
    v->packed = malloc((size_t)v->visible);
    if (!v->packed) {
        viewer_free(v);
        return NULL;
    }
    put_head(v);
    return v;
}

static const unsigned char *find_marker(void)
{
    const unsigned char *at = page_html;
    while (memcmp(at, marker, sizeof marker - 1) != 0)
        at++;
    return at;
}

bool viewer_write(viewer *v, const char *path, io_error err)
{
    put(v, "]}");
    if (v->failed)
        return io_fail(err, path, "cannot write: no memory");
    const unsigned char *at = find_marker(), *rest = at + sizeof marker - 1,
                        *end = page_html + sizeof page_html;
    const io_chunk chunks[] = {
        {page_html, (size_t)(at - page_html)}, {v->json, v->used}, {rest, (size_t)(end - rest)}};
    return io_write_file(path, chunks, 3, err);
}

void viewer_free(viewer *v)
{
    if (!v)
        return;
    free(v->json);
    free(v->packed);
    free(v);
}
