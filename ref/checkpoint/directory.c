/**
 * @file directory.c
 * @brief Which tensors a checkpoint has and in which of its files each lies.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint.h"

#define INDEX "model.safetensors.index.json"
#define ALONE "model.safetensors"
#define MAX_SHARD_NAME 200

static int by_name(const void *a, const void *b)
{
    return strcmp(((const checkpoint_name *)a)->name, ((const checkpoint_name *)b)->name);
}

static int by_place_name(const void *a, const void *b)
{
    return strcmp(((const st_place *)a)->name, ((const st_place *)b)->name);
}

int checkpoint_lower(const checkpoint *c, const char *name)
{
    int low = 0, high = c->n_names;
    while (low < high) {
        const int middle = low + (high - low) / 2;
        if (strcmp(c->name[middle].name, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool checkpoint_has(const checkpoint *c, const char *name)
{
    const int at = checkpoint_lower(c, name);
    return at < c->n_names && strcmp(c->name[at].name, name) == 0;
}

/* "DIR/NAME", for free(). */
static char *join(const char *dir, const char *name)
{
    const size_t bytes = strlen(dir) + strlen(name) + 2;
    char *path = malloc(bytes);
    if (path)
        snprintf(path, bytes, "%s/%s", dir, name);
    return path;
}

static bool list_shard(checkpoint_shard *s, io_error err)
{
    if (s->listed)
        return true;
    if (!st_list(s->path, &s->tensors, err))
        return false;
    qsort(s->tensors.place, (size_t)s->tensors.n, sizeof *s->tensors.place, by_place_name);
    s->listed = true;
    return true;
}

const st_place *checkpoint_find(checkpoint *c, const char *name, const char **path, io_error err)
{
    const int at = checkpoint_lower(c, name);
    if (!checkpoint_has(c, name)) {
        io_fail(err, c->dir, "expected a tensor '%s', found none", name);
        return NULL;
    }
    checkpoint_shard *s = &c->shard[c->name[at].shard];
    if (!list_shard(s, err))
        return NULL;
    *path = s->path;
    const st_place *p = s->tensors.n ? bsearch(&(st_place){.name = name}, s->tensors.place,
                                               (size_t)s->tensors.n, sizeof *p, by_place_name)
                                     : NULL;
    if (!p)
        io_fail(err, s->path, "expected the tensor '%s', as " INDEX " says, found none of that name", name);
    return p;
}

/* The only file: its header is read at once. */
static bool open_alone(const char *dir, checkpoint *c, io_error err)
{
    c->shard = calloc(1, sizeof *c->shard);
    if (!c->shard || !(c->shard->path = join(dir, ALONE)))
        return io_fail(err, dir, "no memory for its name");
    c->n_shards = 1;
    if (!list_shard(c->shard, err))
        return false;
    const st_listing *l = &c->shard->tensors;
    if (!(c->name = calloc((size_t)l->n + 1, sizeof *c->name)))
        return io_fail(err, dir, "no memory for its names");
    for (int i = 0; i < l->n; i++)
        c->name[c->n_names++] = (checkpoint_name){l->place[i].name, 0};
    return true;
}

#ifdef HAVE_JANSSON

#include "../io/json.h"

/* A file in the directory itself: no path that leads elsewhere. */
static bool check_shard_name(const char *path, const char *name, const json_t *file, io_error err)
{
    const char *text = json_string_value(file);
    const size_t length = text ? strlen(text) : 0;
    if (length > 0 && length <= MAX_SHARD_NAME && !strchr(text, '/') && *text != '.')
        return true;
    return io_fail(err, path, "weight_map: expected the name of a file beside it for '%.100s', found '%.60s'",
                   name, text ? text : "something else than text");
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The files that the map names, each once: sorted[0 .. n-1]. */
static int list_files(json_t *map, const char **sorted)
{
    int n = 0, kept = 0;
    for (void *at = json_object_iter(map); at; at = json_object_iter_next(map, at))
        sorted[n++] = json_string_value(json_object_iter_value(at));
    qsort(sorted, (size_t)n, sizeof *sorted, by_text);
    for (int i = 0; i < n; i++)
        if (i == 0 || strcmp(sorted[i], sorted[kept - 1]) != 0)
            sorted[kept++] = sorted[i];
    return kept;
}

static bool take_map(const char *dir, json_t *map, const char **file, checkpoint *c, io_error err)
{
    const int n = list_files(map, file);
    c->name = calloc(json_object_size(map) + 1, sizeof *c->name);
    c->shard = calloc((size_t)n + 1, sizeof *c->shard);
    if (!c->name || !c->shard)
        return io_fail(err, dir, "no memory for its names");
    for (; c->n_shards < n; c->n_shards++)
        if (!(c->shard[c->n_shards].path = join(dir, file[c->n_shards])))
            return io_fail(err, dir, "no memory for its names");
    for (void *at = json_object_iter(map); at; at = json_object_iter_next(map, at)) {
        const char *shard = json_string_value(json_object_iter_value(at));
        const char **found = bsearch(&shard, file, (size_t)n, sizeof *file, by_text);
        c->name[c->n_names++] = (checkpoint_name){json_object_iter_key(at), (int)(found - file)};
    }
    return true;
}

static bool open_index(const char *dir, const char *path, checkpoint *c, io_error err)
{
    json_t *root = c->index = io_json_read(path, err);
    if (!root)
        return false;
    json_t *map = json_object_get(root, "weight_map");
    if (!json_is_object(map))
        return io_fail(err, path, "expected an object weight_map of names and files");
    for (void *at = json_object_iter(map); at; at = json_object_iter_next(map, at)) {
        if (!check_shard_name(path, json_object_iter_key(at), json_object_iter_value(at), err))
            return false;
    }
    const char **file = calloc(json_object_size(map) + 1, sizeof *file);
    bool ok = file ? take_map(dir, map, file, c, err) : io_fail(err, path, "no memory for its names");
    free(file);
    return ok;
}

static void free_index(void *index)
{
    json_decref(index);
}

#else

static bool open_index(const char *dir, const char *path, checkpoint *c, io_error err)
{
    (void)dir, (void)c;
    return io_fail(err, path, "cannot read: this build has no JSON; install libjansson-dev and build again");
}

static void free_index(void *index)
{
    (void)index;
}

#endif

bool checkpoint_open(const char *dir, checkpoint *c, io_error err)
{
    *c = (checkpoint){.dir = dir};
    char *config = join(dir, "config.json"), *index = join(dir, INDEX);
    bool ok = config && index ? checkpoint_read_config(config, &c->config, err)
                              : io_fail(err, dir, "no memory for its name");
    if (ok)
        ok = access(index, F_OK) == 0 ? open_index(dir, index, c, err) : open_alone(dir, c, err);
    if (ok)
        qsort(c->name, (size_t)c->n_names, sizeof *c->name, by_name);
    else
        checkpoint_close(c);
    free(config);
    free(index);
    return ok;
}

void checkpoint_close(checkpoint *c)
{
    for (int i = 0; i < c->n_shards; i++) {
        free(c->shard[i].path);
        st_list_free(&c->shard[i].tensors);
    }
    free(c->shard);
    free(c->name);
    free_index(c->index);
    *c = (checkpoint){0};
}
