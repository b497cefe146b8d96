/**
 * @file config.c
 * @brief The shape of a model from its config.json: fields flat or in `text_config`, those of the index flat or
 *        in `sparse_attention_config`. What is missing has the value of MiniMax-M3, as in transformers.
 */
#include <stdlib.h>
#include <string.h>

#include "checkpoint.h"

#ifndef HAVE_JANSSON

bool checkpoint_read_config(const char *path, checkpoint_config *c, io_error err)
{
    *c = (checkpoint_config){0};
    return io_fail(err, path, "cannot read: this build has no JSON; install libjansson-dev and build again");
}

#else

#include "../io/json.h"

#define MOST_HEADS (1 << 16)
#define MOST_WIDTH (1 << 20)
#define MOST_BLOCK (1 << 30)

/* An object of the file: where errors say that its fields are. */
typedef struct section {
    const char *path, *name; /* "text_config." */
    const json_t *object;
} section;

/* A field, NULL where it is missing or null. */
static const json_t *field(const section *s, const char *key)
{
    const json_t *value = json_object_get(s->object, key);
    return json_is_null(value) ? NULL : value;
}

static bool wrong(const section *s, const char *key, const char *expected, io_error err)
{
    char *found = json_dumps(field(s, key), JSON_COMPACT | JSON_ENCODE_ANY);
    io_fail(err, s->path, "%s%s: expected %s, found %.60s", s->name, key, expected,
            found ? found : "another");
    free(found);
    return false;
}

/* A whole number from `least` to `most`; what *to holds stays where there is none. */
static bool read_whole(const section *s, const char *key, int least, int most, int *to, io_error err)
{
    const json_t *value = field(s, key);
    char expected[64];
    if (!value)
        return true;
    snprintf(expected, sizeof expected, "a whole number from %d to %d", least, most);
    if (!json_is_integer(value) || json_integer_value(value) < least || json_integer_value(value) > most)
        return wrong(s, key, expected, err);
    *to = (int)json_integer_value(value);
    return true;
}

static bool read_real(const section *s, const char *key, double least, double most, double *to, io_error err)
{
    const json_t *value = field(s, key);
    char expected[64];
    if (!value)
        return true;
    snprintf(expected, sizeof expected, "a number from %g to %g", least, most);
    const double x = json_number_value(value);
    if (!json_is_number(value) || !(x >= least && x <= most))
        return wrong(s, key, expected, err);
    *to = x;
    return true;
}

/* An object in the object, empty where it is missing. */
static bool open_section(const section *in, const char *key, const char *name, section *out, io_error err)
{
    const json_t *value = field(in, key);
    *out = (section){in->path, name, value};
    return !value || json_is_object(value) || wrong(in, key, "an object", err);
}

/* ---- Which layers are sparse ---------------------------------------------------------------------- */

/* One entry of layer_types, or of sparse_attention_freq. */
static bool is_sparse(const json_t *entry, bool *sparse)
{
    const char *type = json_string_value(entry);
    *sparse =
        type ? strcmp(type, "minimax_m3_sparse") == 0 : json_is_true(entry) || json_integer_value(entry) != 0;
    return type ? *sparse || strcmp(type, "full_attention") == 0
                : json_is_integer(entry) || json_is_boolean(entry);
}

static bool read_kinds(const section *s, const char *key, checkpoint_config *c, io_error err)
{
    const json_t *list = field(s, key);
    char expected[96];
    snprintf(expected, sizeof expected, "a list of num_hidden_layers, %d, kinds", c->n_layers);
    if (!json_is_array(list) || json_array_size(list) != (size_t)c->n_layers)
        return wrong(s, key, expected, err);
    for (int i = 0; i < c->n_layers; i++)
        if (!is_sparse(json_array_get(list, (size_t)i), &c->sparse[i]))
            return wrong(s, key,
                         strcmp(key, "layer_types") == 0 ? "only minimax_m3_sparse and full_attention"
                                                         : "only 0 and 1",
                         err);
    return true;
}

/* ---- Rotation -------------------------------------------------------------------------------------- */

/* Everybody reads partial_rotary_factor. Transformers, which writes rope_parameters, reads nothing else. */
static bool read_width(const section *text, const section *rope, checkpoint_config *c, io_error err)
{
    double factor = 0;
    int width = 0;
    const section *at = field(rope, "partial_rotary_factor") ? rope : text;
    if (!read_real(at, "partial_rotary_factor", 0, 1, &factor, err) ||
        !read_whole(text, "rotary_dim", 0, MOST_WIDTH, &width, err))
        return false;
    if (field(at, "partial_rotary_factor")) {
        c->rot = (int)(factor * c->d_head);
        snprintf(c->rule, sizeof c->rule, "partial_rotary_factor %g of head_dim", factor);
    } else if (rope->object) {
        c->rot = c->d_head;
        snprintf(c->rule, sizeof c->rule, "no partial_rotary_factor in %.*s: all, as in transformers",
                 (int)strlen(rope->name) - 1, rope->name);
    } else {
        c->rot = field(text, "rotary_dim") ? width : c->d_head;
        snprintf(c->rule, sizeof c->rule, "%s", field(text, "rotary_dim") ? "rotary_dim" : "no field: all");
    }
    if (c->rot > c->d_head || c->rot % 2 != 0)
        return io_fail(err, text->path,
                       "rotated channels: expected an even number up to head_dim %d, found %d (%s)",
                       c->d_head, c->rot, c->rule);
    return true;
}

/* Whether every layer turns the same way: no object within the object. */
static bool check_flat(const section *rope, io_error err)
{
    json_t *object = (json_t *)(uintptr_t)rope->object; /* jansson's iterators take no const */
    for (void *at = json_object_iter(object); at; at = json_object_iter_next(object, at))
        if (json_is_object(json_object_iter_value(at)))
            return wrong(rope, json_object_iter_key(at), "one rotation for all layers", err);
    return true;
}

static bool read_rotation(const section *text, checkpoint_config *c, io_error err)
{
    section rope;
    const json_t *scaling = field(text, "rope_scaling");
    const bool older = scaling && !(json_is_object(scaling) && json_object_size(scaling) == 0);
    if (!open_section(text, older ? "rope_scaling" : "rope_parameters",
                      older ? "rope_scaling." : "rope_parameters.", &rope, err) ||
        !check_flat(&rope, err))
        return false;
    const char *key = field(&rope, "rope_type") ? "rope_type" : "type";
    const char *type = json_string_value(field(&rope, key));
    if (field(&rope, key) && (!type || strcmp(type, "default") != 0))
        return wrong(&rope, key, "\"default\"", err);
    c->theta = 5e6;
    return read_real(field(&rope, "rope_theta") ? &rope : text, "rope_theta", 1e-3, 1e30, &c->theta, err) &&
           read_width(text, &rope, c, err);
}

/* ---- The index -------------------------------------------------------------------------------------- */

/* A number under either of its two names; that of sparse_attention_config wins, as in transformers. */
static bool read_either(const section *text, const section *sparse, const char *flat, const char *nested,
                        int least, int most, int *to, io_error err)
{
    return field(sparse, nested) ? read_whole(sparse, nested, least, most, to, err)
                                 : read_whole(text, flat, least, most, to, err);
}

static bool read_index(const section *text, checkpoint_config *c, io_error err)
{
    section sparse;
    int heads = 4, local = 1, first = 0, tokens = 0;
    if (!open_section(text, "sparse_attention_config", "sparse_attention_config.", &sparse, err))
        return false;
    c->d_index = 128, c->block = 128, c->topk = 16;
    if (!read_either(text, &sparse, "index_n_heads", "sparse_num_index_heads", 0, MOST_HEADS, &heads, err) ||
        !read_either(text, &sparse, "index_head_dim", "sparse_index_dim", 1, MOST_WIDTH, &c->d_index, err) ||
        !read_either(text, &sparse, "index_block_size", "sparse_block_size", 1, MOST_BLOCK, &c->block, err) ||
        !read_either(text, &sparse, "index_topk_blocks", "sparse_topk_blocks", 1, MOST_WIDTH, &c->topk,
                     err) ||
        !read_either(text, &sparse, "index_local_blocks", "sparse_local_block", 0, MOST_WIDTH, &local, err) ||
        !read_whole(&sparse, "sparse_init_block", 0, MOST_WIDTH, &first, err) ||
        !read_whole(&sparse, "sparse_init_tokens", 0, MOST_BLOCK, &tokens, err))
        return false;
    const char *score = json_string_value(field(&sparse, "sparse_score_type"));
    if (heads != c->n_kv_heads)
        io_fail(c->trouble, text->path, "index heads: expected as many as num_key_value_heads, %d, found %d",
                c->n_kv_heads, heads);
    else if (local != 1)
        io_fail(c->trouble, text->path, "local blocks: expected 1 that is always selected, found %d", local);
    else if (first != 0 || tokens != 0)
        io_fail(c->trouble, text->path,
                "first blocks (sparse_init_block, sparse_init_tokens): expected none "
                "that is always selected, found %d",
                first ? first : tokens);
    else if (field(&sparse, "sparse_score_type") && (!score || strcmp(score, "max") != 0))
        wrong(&sparse, "sparse_score_type", "\"max\"", c->trouble);
    else if (json_is_false(field(&sparse, "use_sparse_attention")))
        wrong(&sparse, "use_sparse_attention", "true", c->trouble);
    if (field(text, "layer_types"))
        return read_kinds(text, "layer_types", c, err);
    return !field(&sparse, "sparse_attention_freq") || read_kinds(&sparse, "sparse_attention_freq", c, err);
}

/* ---- The file --------------------------------------------------------------------------------------- */

/* Of a file that does not say so, the tensors' shapes will tell. */
static bool read_type(const section *s, checkpoint_config *c, io_error err)
{
    static const char family[] = "minimax_m3";
    const char *type = field(s, "model_type") ? json_string_value(field(s, "model_type")) : "minimax_m3";
    if (!type || strncmp(type, family, sizeof family - 1) != 0 || strlen(type) >= sizeof c->model_type)
        return wrong(s, "model_type", "one that begins with minimax_m3", err);
    snprintf(c->model_type, sizeof c->model_type, "%s", type);
    io_make_printable(c->model_type);
    return true;
}

static bool read_text(const section *s, checkpoint_config *c, io_error err)
{
    c->d_model = 6144, c->n_layers = 60, c->n_heads = 64, c->n_kv_heads = 4, c->d_head = 128, c->eps = 1e-6;
    if (!read_whole(s, "hidden_size", 1, MOST_WIDTH, &c->d_model, err) ||
        !read_whole(s, "num_hidden_layers", 1, CHECKPOINT_MAX_LAYERS, &c->n_layers, err) ||
        !read_whole(s, "num_attention_heads", 1, MOST_HEADS, &c->n_heads, err) ||
        !read_whole(s, "num_key_value_heads", 1, MOST_HEADS, &c->n_kv_heads, err) ||
        !read_whole(s, "head_dim", 1, MOST_WIDTH, &c->d_head, err) ||
        !read_real(s, "rms_norm_eps", 0, 1, &c->eps, err))
        return false;
    if (c->n_heads % c->n_kv_heads != 0)
        return io_fail(err, s->path,
                       "%snum_attention_heads: expected a multiple of num_key_value_heads, %d, found %d",
                       s->name, c->n_kv_heads, c->n_heads);
    if (json_is_false(field(s, "use_gemma_norm")))
        return wrong(s, "use_gemma_norm", "true: gains are 1 + w", err);
    return read_rotation(s, c, err) && read_index(s, c, err);
}

bool checkpoint_read_config(const char *path, checkpoint_config *c, io_error err)
{
    *c = (checkpoint_config){0};
    json_t *root = io_json_read(path, err);
    if (!root)
        return false;
    const section file = {path, "", root};
    section text;
    bool ok = read_type(&file, c, err) && open_section(&file, "text_config", "text_config.", &text, err) &&
              read_text(text.object ? &text : &file, c, err);
    json_decref(root);
    return ok;
}

#endif
