/* The file of a device's parameters. */
#include "tuning.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../table/table.h"

/* ---- Where it is ------------------------------------------------------------------------------------------ */

static const char *name_of(const msa_device *device)
{
    static msa_about about;
    device->about(&about);
    return about.name;
}

bool tuning_path(const msa_device *device, char path[PATH_MAX])
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    const bool given = cache && *cache == '/'; /* any other is to be ignored, says the specification */
    char name[128];
    snprintf(name, sizeof name, "%s", name_of(device));
    for (char *c = name; *c; c++)
        *c = isalnum((unsigned char)*c) ? *c : '_';
    if (!given && !(home && *home))
        return false;
    int n = snprintf(path, PATH_MAX, "%s%s", given ? cache : home, given ? "" : "/.cache");
    if (n < PATH_MAX)
        mkdir(path, 0700); /* whoever writes there hears what is wrong */
    n = n < PATH_MAX ? snprintf(path + n, (size_t)(PATH_MAX - n), "/msa/tuned-%s.json", name) + n : n;
    return n < PATH_MAX;
}

/* ---- What it holds ---------------------------------------------------------------------------------------- */

#ifndef HAVE_JANSSON

bool tuning_possible(void)
{
    return false;
}

bool tuning_read(const char *path, const msa_device *device, tuning *t, io_error err)
{
    (void)device, (void)t;
    return io_fail(err, path, "expected a build with jansson to read it, found one without");
}

void tuning_begin(const msa_device *device, tuning *t)
{
    (void)device;
    *t = (tuning){{0}};
}

int tuning_write(const char *command, const char *path, const tuning *t)
{
    (void)path, (void)t;
    return cli_fail(command, "expected a build with jansson (package libjansson-dev), found one without");
}

#else

#include "../io/json.h"
#include "commit.inc"

bool tuning_possible(void)
{
    return true;
}

void tuning_begin(const msa_device *device, tuning *t)
{
    *t = (tuning){.build = MSA_COMMIT};
    snprintf(t->device, sizeof t->device, "%s", name_of(device));
    for (int i = 0; i < MSA_N_TUNABLES; i++)
        t->value[i] = msa_tune_preset(device, i);
}

static int find(const char *name)
{
    int i = 0;
    while (i < MSA_N_TUNABLES && strcmp(msa_tunables[i].name, name) != 0)
        i++;
    return i;
}

static bool in_range(int parameter, const json_t *value)
{
    return json_is_integer(value) && json_integer_value(value) >= msa_tunables[parameter].least &&
           json_integer_value(value) <= msa_tunables[parameter].most;
}

static bool read_values(const char *path, json_t *values, tuning *t, io_error err)
{
    const char *name;
    json_t *x;
    if (!json_is_object(values))
        return io_fail(err, path, "expected the values of parameters, found none");
    json_object_foreach(values, name, x)
    {
        const int i = find(name);
        if (i == MSA_N_TUNABLES)
            return io_fail(err, path, "expected a parameter that 'msa tune --list' names, found '%s'", name);
        if (!in_range(i, x))
            return io_fail(err, path, "%s: expected a whole number from %d to %d, found another", name,
                           msa_tunables[i].least, msa_tunables[i].most);
        t->value[i] = (int)json_integer_value(x);
    }
    return true;
}

static bool read_entry(const json_t *o, tuning_entry *e)
{
    const char *name = json_string_value(json_object_get(o, "parameter"));
    const json_t *ms = json_object_get(o, "ms"), *value = json_object_get(o, "value"),
                 *begun = json_object_get(o, "begun"), *verified = json_object_get(o, "verified");
    *e = (tuning_entry){.parameter = name ? find(name) : MSA_N_TUNABLES};
    if (e->parameter == MSA_N_TUNABLES || !in_range(e->parameter, value) || !json_is_integer(begun) ||
        !json_is_boolean(verified) ||
        !(json_is_null(ms) || (json_is_number(ms) && json_number_value(ms) > 0)))
        return false;
    e->value = (int)json_integer_value(value);
    e->begun = json_integer_value(begun) > 1 ? 2 : 1;
    e->ms = json_number_value(ms);
    e->verified = json_is_true(verified);
    return true;
}

static bool read_all(const char *path, const json_t *o, tuning *t, io_error err)
{
    const char *device = json_string_value(json_object_get(o, "device")),
               *build = json_string_value(json_object_get(o, "commit"));
    const json_t *list = json_object_get(o, "measured");
    if (!device || !build || !json_is_array(list) || json_array_size(list) > TUNING_MAX)
        return io_fail(err, path, "expected a file of 'msa tune', found one without its fields");
    if (strcmp(device, t->device) != 0)
        return io_fail(err, path, "expected one of the device %s, found one of %s", t->device, device);
    snprintf(t->build, sizeof t->build, "%s", build);
    for (size_t i = 0; i < json_array_size(list); i++, t->n++)
        if (!read_entry(json_array_get(list, i), &t->entry[i]))
            return io_fail(err, path,
                           "measured[%zu]: expected a parameter, its value and its time, found other", i);
    return read_values(path, json_object_get(o, "values"), t, err);
}

bool tuning_read(const char *path, const msa_device *device, tuning *t, io_error err)
{
    json_t *o = io_json_read(path, err);
    tuning_begin(device, t);
    const bool ok = o && read_all(path, o, t, err);
    json_decref(o);
    return ok;
}

static json_t *entry_json(const tuning_entry *e)
{
    json_t *o = json_object();
    json_object_set_new(o, "parameter", json_string(msa_tunables[e->parameter].name));
    json_object_set_new(o, "value", json_integer(e->value));
    json_object_set_new(o, "begun", json_integer(e->begun));
    json_object_set_new(o, "ms", e->ms > 0 ? json_real(e->ms) : json_null());
    json_object_set_new(o, "verified", json_boolean(e->verified));
    return o;
}

static json_t *file_json(const tuning *t)
{
    json_t *o = json_object(), *values = json_object(), *list = json_array();
    for (int i = 0; i < MSA_N_TUNABLES; i++)
        json_object_set_new(values, msa_tunables[i].name, json_integer(t->value[i]));
    for (int i = 0; i < t->n; i++)
        json_array_append_new(list, entry_json(&t->entry[i]));
    json_object_set_new(o, "device", json_string(t->device));
    json_object_set_new(o, "commit", json_string(t->build));
    json_object_set_new(o, "values", values);
    json_object_set_new(o, "measured", list);
    return o;
}

int tuning_write(const char *command, const char *path, const tuning *t)
{
    io_error err;
    io_json_begin();
    json_t *o = file_json(t);
    char *text = json_dumps(o, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    json_decref(o);
    if (!text || !io_json_whole()) {
        free(text);
        return cli_fail(command, "%s: expected memory to write it, found too little", path);
    }
    const io_chunk chunk[] = {{text, strlen(text)}, {"\n", 1}};
    int bad = cli_begin_output(command, "--out", path);
    if (!bad && !io_write_file(path, chunk, 2, err))
        bad = cli_fail(command, "%s", err);
    free(text);
    return bad ? bad : cli_commit_outputs(command);
}

#endif

/* ---- Who uses it ------------------------------------------------------------------------------------------ */

int tuning_use(const char *command, const char *backend)
{
    static tuning t; /* too large for a stack */
    static const msa_device *asked; /* by a kernel before, of the same device */
    const msa_device *device = table_device(backend);
    const char *named = getenv("MSA_TUNING");
    char own[PATH_MAX];
    io_error err;
    if (!device || device == asked || device->missing() || (named ? !*named : device == msa_engine()))
        return 0;
    asked = device;
    if (!named && (!tuning_path(device, own) || access(own, F_OK) != 0))
        return 0;
    if (!tuning_read(named ? named : own, device, &t, err)) {
        if (named)
            return cli_fail(command, "MSA_TUNING: %s", err);
        fprintf(stderr, "msa %s: %s; the presets are used ('msa tune' writes it anew)\n", command, err);
        return 0;
    }
    for (int i = 0; i < MSA_N_TUNABLES; i++)
        msa_tune(device, i, t.value[i]);
    return 0;
}
