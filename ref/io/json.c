/**
 * @file json.c
 * @brief JSON from outside, within bounds; and whether building JSON has had all of its memory: jansson leaves
 * out what it has none for, and a caller would have to look at every single call.
 */
#ifdef HAVE_JANSSON
#include <stdlib.h>

#include "json.h"

#define MAX_VALUES (1 << 20) /* of a text of IO_MAX_JSON bytes; parsed, each takes 80 bytes and more */

static bool whole;

static void *take(size_t bytes)
{
    void *p = malloc(bytes);
    whole = whole && p;
    return p;
}

void io_json_begin(void)
{
    json_set_alloc_funcs(take, free);
    whole = true;
}

bool io_json_whole(void)
{
    return whole;
}

/* An upper bound of how many values the JSON holds, found without taking memory: what is parsed grows far
 * beyond its text. Commas and brackets within strings count too, which no real name has many of. */
static size_t count_values(const char *text, size_t n)
{
    size_t values = 1;
    for (size_t i = 0; i < n; i++)
        values += text[i] == ',' || text[i] == '[' || text[i] == '{';
    return values;
}

json_t *io_json_parse(const char *path, const char *what, const char *text, size_t bytes, io_error err)
{
    json_error_t why;
    if (count_values(text, bytes) > MAX_VALUES) {
        io_fail(err, path, "%sexpected at most %d values, found %zu", what, MAX_VALUES,
                count_values(text, bytes));
        return NULL;
    }
    io_json_begin();
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &why);
    if (root && json_is_object(root) && io_json_whole())
        return root;
    if (!io_json_whole())
        io_fail(err, path, "%sno memory for it", what);
    else if (!root)
        io_fail(err, path, "%sexpected JSON, found an error at byte %d: %s", what, why.position, why.text);
    else
        io_fail(err, path, "%sexpected a JSON object", what);
    json_decref(root);
    return NULL;
}

json_t *io_json_read(const char *path, io_error err)
{
    unsigned char *text;
    size_t bytes;
    if (!io_read_file(path, IO_MAX_JSON, &text, &bytes, err))
        return NULL;
    json_t *root = io_json_parse(path, "", (const char *)text, bytes, err);
    free(text);
    return root;
}
#endif
