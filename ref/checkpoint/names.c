/**
 * @file names.c
 * @brief The tensors of one attention layer, under the names of every way in which the model is stored.
 *
 * A name is PREFIX layers.N. and one of the table below. Of the vision-language model the prefix is
 * "language_model.model." on disk and "model.language_model." in memory, of the text model "model."; a model
 * without its head has none, or "language_model.".
 */
#include <stdlib.h>
#include <string.h>

#include "checkpoint.h"

static const char *const prefixes[] = {"language_model.model.layers.", "model.language_model.layers.",
                                       "model.layers.", "language_model.layers.", "layers."};
#define N_PREFIXES (sizeof prefixes / sizeof *prefixes)
#define ATTENTION "self_attn."
#define SCALES "_scale_inv" /* behind the name of an MXFP8 weight */

static const char *const parts[CHECKPOINT_N_PARTS][2] = {
    [CHECKPOINT_INPUT_NORM] = {"input_layernorm.weight"},
    [CHECKPOINT_Q] = {ATTENTION "q_proj.weight"},
    [CHECKPOINT_K] = {ATTENTION "k_proj.weight"},
    [CHECKPOINT_V] = {ATTENTION "v_proj.weight"},
    [CHECKPOINT_O] = {ATTENTION "o_proj.weight"},
    [CHECKPOINT_Q_NORM] = {ATTENTION "q_norm.weight"},
    [CHECKPOINT_K_NORM] = {ATTENTION "k_norm.weight"},
    [CHECKPOINT_INDEX_Q] = {ATTENTION "index_q_proj.weight", ATTENTION "indexer.q_proj.weight"},
    [CHECKPOINT_INDEX_K] = {ATTENTION "index_k_proj.weight", ATTENTION "indexer.k_proj.weight"},
    [CHECKPOINT_INDEX_Q_NORM] = {ATTENTION "index_q_norm.weight", ATTENTION "indexer.q_norm.weight"},
    [CHECKPOINT_INDEX_K_NORM] = {ATTENTION "index_k_norm.weight", ATTENTION "indexer.k_norm.weight"},
};

/* [rows, cols] of a part; a gain has one row. */
static void shape_of(const checkpoint_config *c, checkpoint_part part, int64_t *rows, int64_t *cols)
{
    const int64_t m = c->d_model, q = (int64_t)c->n_heads * c->d_head,
                  kv = (int64_t)c->n_kv_heads * c->d_head;
    const int64_t shape[CHECKPOINT_N_PARTS][2] = {
        [CHECKPOINT_INPUT_NORM] = {1, m},
        [CHECKPOINT_Q] = {q, m},
        [CHECKPOINT_K] = {kv, m},
        [CHECKPOINT_V] = {kv, m},
        [CHECKPOINT_O] = {m, q},
        [CHECKPOINT_Q_NORM] = {1, c->d_head},
        [CHECKPOINT_K_NORM] = {1, c->d_head},
        [CHECKPOINT_INDEX_Q] = {(int64_t)c->n_kv_heads * c->d_index, m},
        [CHECKPOINT_INDEX_K] = {c->d_index, m},
        [CHECKPOINT_INDEX_Q_NORM] = {1, c->d_index},
        [CHECKPOINT_INDEX_K_NORM] = {1, c->d_index},
    };
    *rows = shape[part][0], *cols = shape[part][1];
}

static bool is_gain(checkpoint_part part)
{
    return strstr(parts[part][0], "norm.weight") != NULL;
}

/* ---- One tensor ----------------------------------------------------------------------------------- */

static bool check_shape(const char *path, const st_place *p, int ndim, int64_t rows, int64_t cols,
                        io_error err)
{
    const int64_t expected[2] = {ndim == 2 ? rows : cols, cols};
    char want[IO_PLACE], found[IO_PLACE];
    if (p->ndim == ndim && memcmp(p->dim, expected, (size_t)ndim * sizeof *expected) == 0)
        return true;
    io_shape(ndim, expected, want);
    io_shape(p->ndim, p->dim, found);
    return io_fail(err, path, "tensor '%s': expected the shape %s that config.json gives, found %s", p->name,
                   want, found);
}

/* The powers of two of an MXFP8 weight. */
static bool find_scales(checkpoint *c, checkpoint_weight *w, io_error err)
{
    char name[sizeof w->name + sizeof SCALES];
    snprintf(name, sizeof name, "%s" SCALES, w->name);
    if (w->cols % CHECKPOINT_MX != 0)
        return io_fail(err, w->path, "tensor '%s': expected columns in blocks of %d, found %lld", w->name,
                       CHECKPOINT_MX, (long long)w->cols);
    const st_place *p = checkpoint_find(c, name, &w->scales_path, err);
    if (!p || !check_shape(w->scales_path, p, 2, w->rows, w->cols / CHECKPOINT_MX, err))
        return false;
    if (strcmp(p->dtype, "U8") != 0 && strcmp(p->dtype, "F8_E8M0") != 0)
        return io_fail(err, w->scales_path,
                       "tensor '%s': expected dtype U8, powers of two as of MXFP8, found %.20s", name,
                       p->dtype);
    w->scales_at = p->at;
    w->element = IO_N_ELEMENTS;
    return true;
}

static bool find_weight(checkpoint *c, const char *name, bool gain, checkpoint_weight *w, io_error err)
{
    snprintf(w->name, sizeof w->name, "%s", name);
    const st_place *p = checkpoint_find(c, name, &w->path, err);
    if (!p || !check_shape(w->path, p, gain ? 1 : 2, w->rows, w->cols, err))
        return false;
    w->at = p->at;
    w->element = p->element;
    if (p->element == IO_F32 || p->element == IO_F16 || p->element == IO_BF16)
        return true;
    if (strcmp(p->dtype, "F8_E4M3") == 0 && !gain)
        return find_scales(c, w, err);
    return io_fail(err, w->path, "tensor '%s': expected dtype BF16, F16, F32%s, found %.20s", name,
                   gain ? "" : " or F8_E4M3", p->dtype);
}

/* ---- The layer ------------------------------------------------------------------------------------ */

static bool has_part(const checkpoint *c, const char *prefix, int layer, const char *part)
{
    char name[128];
    snprintf(name, sizeof name, "%s%d.%s", prefix, layer, part);
    return checkpoint_has(c, name);
}

const char *checkpoint_prefix(const checkpoint *c, int layer, io_error err)
{
    const char *found = NULL;
    for (size_t i = 0; i < N_PREFIXES; i++) {
        if (!has_part(c, prefixes[i], layer, parts[CHECKPOINT_Q][0]))
            continue;
        if (found) {
            io_fail(err, c->dir, "layer %d: expected one set of names, found %s%d and %s%d", layer, found,
                    layer, prefixes[i], layer);
            return NULL;
        }
        found = prefixes[i];
    }
    if (!found)
        io_fail(err, c->dir, "layer %d: expected tensors such as %s%d.%s, found none", layer, prefixes[0],
                layer, parts[CHECKPOINT_Q][0]);
    return found;
}

/* The name of a part, in whichever of its spellings it is there. */
static bool find_part(checkpoint *c, const char *prefix, int layer, checkpoint_part part,
                      checkpoint_weight *w, io_error err)
{
    char name[128];
    const char *other = parts[part][1];
    const bool second = other && has_part(c, prefix, layer, other);
    if (second && has_part(c, prefix, layer, parts[part][0]))
        return io_fail(err, c->dir, "layer %d: expected one of %s and %s, found both", layer, parts[part][0],
                       other);
    snprintf(name, sizeof name, "%s%d.%s", prefix, layer, parts[part][second]);
    shape_of(&c->config, part, &w->rows, &w->cols);
    return find_weight(c, name, is_gain(part), w, err);
}

/* A bias, values of the index: whatever else is in the attention would be left out without a word. */
static bool check_complete(const checkpoint *c, const char *prefix, int layer, const checkpoint_layer *l,
                           io_error err)
{
    char begin[128];
    const size_t length = (size_t)snprintf(begin, sizeof begin, "%s%d." ATTENTION, prefix, layer);
    for (int i = checkpoint_lower(c, begin); i < c->n_names; i++) {
        const char *name = c->name[i].name;
        bool known = false;
        if (strncmp(name, begin, length) != 0)
            return true;
        for (int part = 0; part < CHECKPOINT_N_PARTS && !known; part++) {
            const checkpoint_weight *w = &l->weight[part];
            const size_t own = strlen(w->name);
            known = own && strncmp(name, w->name, own) == 0 &&
                    (!name[own] || (w->element == IO_N_ELEMENTS && strcmp(name + own, SCALES) == 0));
        }
        if (!known)
            return io_fail(
                err, c->shard[c->name[i].shard].path,
                "tensor '%.150s': expected nothing but the weights of %s layer, found one that MSA has not",
                name, l->sparse ? "a sparse" : "a dense");
    }
    return true;
}

bool checkpoint_find_layer(checkpoint *c, int layer, bool input_norm, checkpoint_layer *out, io_error err)
{
    const checkpoint_config *config = &c->config;
    *out = (checkpoint_layer){0};
    if (layer < 0 || layer >= config->n_layers)
        return io_fail(err, c->dir, "layer %d: expected one from 0 to %d", layer, config->n_layers - 1);
    out->sparse = config->sparse[layer];
    if (out->sparse && *config->trouble) {
        memcpy(err, config->trouble, sizeof config->trouble);
        return false;
    }
    const char *prefix = checkpoint_prefix(c, layer, err);
    if (!prefix)
        return false;
    const checkpoint_part end = out->sparse ? CHECKPOINT_N_PARTS : CHECKPOINT_INDEX_Q;
    for (checkpoint_part part = input_norm ? CHECKPOINT_INPUT_NORM : CHECKPOINT_Q; part < end; part++)
        if (!find_part(c, prefix, layer, part, &out->weight[part], err))
            return false;
    return check_complete(c, prefix, layer, out, err);
}
