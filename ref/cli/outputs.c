/* What a subcommand writes: memory for every tensor, a check of the directory before the long work, and
 * all files at the end. */
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../stages.h"
#include "ranks.h"

int64_t cli_sizes(const msa_shape *s, const char *letters, int64_t *dim)
{
    int64_t count = 1;
    for (int i = 0; letters[i]; i++)
        count *= dim[i] = msa_size_of_letter(s, letters[i]);
    return count;
}

/* Those of an output. Returns the number of elements, and through `ndim` of dimensions. */
static int64_t output_sizes(const msa_shape *s, const cli_output *out, int *ndim, int64_t *dim)
{
    const int64_t count = cli_sizes(s, out->sizes, dim);
    *ndim = (int)strlen(out->sizes);
    if (out->last)
        dim[(*ndim)++] = out->last;
    return out->last ? count * out->last : count;
}

void *cli_alloc(const char *command, size_t bytes)
{
    const double left = io_memory_left(), mib = 1 << 20;
    if ((double)bytes > left) {
        cli_fail(command,
                 "these sizes: expected to fit the %.1f MiB of memory free here, found a need of %.1f MiB",
                 left / mib, (double)bytes / mib);
        return NULL;
    }
    void *p = malloc(bytes ? bytes : 1);
    if (!p)
        cli_fail(command, "these sizes: no memory for %zu bytes", bytes);
    return p;
}

/* The directory that `path` lies in. */
static void parent_of(const char *path, char parent[static PATH_MAX])
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    while (n > 0 && path[n - 1] != '/')
        n--;
    snprintf(parent, PATH_MAX, "%.*s", n ? (int)n : 1, n ? path : ".");
}

/* Whether a file or directory can be made at `path`, which does not exist yet. */
static int check_parent(const char *command, const char *option, const char *path)
{
    char parent[PATH_MAX];
    struct stat st;
    if (strlen(path) >= PATH_MAX)
        return cli_fail(command, "%s: expected a path below %d bytes, found one of %zu", option, PATH_MAX,
                        strlen(path));
    parent_of(path, parent);
    if (stat(parent, &st) != 0)
        return cli_fail(command, "%s %s: expected a directory at %s, found: %s", option, path, parent,
                        strerror(errno));
    if (!S_ISDIR(st.st_mode) || access(parent, W_OK | X_OK) != 0)
        return cli_fail(command, "%s %s: expected %s to be a writable directory, found it is not", option,
                        path, parent);
    return 0;
}

int cli_check_writable(const char *command, const char *option, const char *path)
{
    struct stat st;
    if (!*path)
        return cli_fail(command, "%s: expected a file, found an empty name", option);
    if (path[strlen(path) - 1] == '/')
        return cli_fail(command, "%s %s: expected a file, found the name of a directory", option, path);
    if (lstat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return cli_fail(command, "%s %s: expected a file, or nothing yet, found %s", option, path,
                        io_kind(st.st_mode));
    if (io_was_read(path))
        return cli_fail(command, "%s %s: expected another file than this command reads, found the same",
                        option, path);
    return check_parent(command, option, path);
}

static int check_dir(const char *command, const char *dir, const cli_output *out, int n)
{
    struct stat st;
    io_error err;
    if (!*dir)
        return cli_fail(command, "--out: expected a directory, found an empty name");
    if (stat(dir, &st) != 0 && errno == ENOENT)
        return check_parent(command, "--out", dir);
    if (stat(dir, &st) != 0)
        return cli_fail(command, "--out %s: expected a directory, found: %s", dir, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return cli_fail(command, "--out %s: expected a directory, found a file", dir);
    for (int i = 0; i < n; i++) {
        char path[PATH_MAX];
        if (!out[i].name)
            continue;
        snprintf(path, sizeof path, "%s/%s", dir, out[i].name);
        int bad = cli_check_writable(command, "--out", path);
        if (bad)
            return bad;
        if (!io_may_replace(dir, out[i].name, err))
            return cli_fail(command, "--out %s/%s", dir, err);
    }
    return 0;
}

int cli_open_outputs(const char *command, const char *dir, const msa_shape *s, cli_output *out, int n)
{
    int bad = check_dir(command, dir, out, n);
    for (int i = 0; i < n && !bad && cli_is_first(); i++) {
        int ndim;
        int64_t dim[IO_MAX_DIMS];
        out[i].data = cli_alloc(command, (size_t)output_sizes(s, &out[i], &ndim, dim) * 4);
        bad = out[i].data ? 0 : 2;
    }
    return bad;
}

/* Inputs are finite here, and so is what the formulas give: NaN stands for a number that a kernel could not hold
 * on the way. */
static int check_numbers(const char *command, const msa_shape *s, const cli_output *out)
{
    int ndim;
    int64_t dim[IO_MAX_DIMS];
    char place[IO_PLACE];
    const int64_t count = output_sizes(s, out, &ndim, dim);
    const float *x = out->data;
    if (out->type != NPY_F32)
        return 0;
    for (int64_t i = 0; i < count; i++)
        if (isnan(x[i])) {
            io_place(ndim, dim, (size_t)i, place);
            return cli_fail(command,
                            "%s at %s: expected a number, found nan: on the way to it these inputs go beyond what this "
                            "kernel's arithmetic holds (--backend ref is in double precision)",
                            out->name, place);
        }
    return 0;
}

int cli_write_outputs(const char *command, const char *dir, const msa_shape *s, const cli_output *out, int n)
{
    io_error err;
    int bad = 0;
    for (int i = 0; i < n && !bad; i++)
        bad = out[i].name ? check_numbers(command, s, &out[i]) : 0;
    if (bad)
        return bad;
    if (!io_begin(dir, command, err))
        return cli_fail(command, "--out %s", err);
    for (int i = 0; i < n; i++) {
        int ndim;
        int64_t dim[IO_MAX_DIMS];
        char path[PATH_MAX];
        if (!out[i].name)
            continue;
        output_sizes(s, &out[i], &ndim, dim);
        snprintf(path, sizeof path, "%s/%s", dir, out[i].name);
        if (!npy_write(path, out[i].type, ndim, dim, out[i].data, err))
            return cli_fail(command, "%s", err);
    }
    return 0;
}

int cli_begin_output(const char *command, const char *option, const char *path)
{
    char parent[PATH_MAX];
    io_error err;
    parent_of(path, parent);
    return io_begin(parent, NULL, err) ? 0 : cli_fail(command, "%s %s", option, err);
}

int cli_flush(const char *command)
{
    return fflush(stdout) != 0 || ferror(stdout) ? cli_fail(command, CLI_STDOUT_LOST) : 0;
}

int cli_commit_outputs(const char *command)
{
    io_error err;
    const int bad = cli_flush(command); /* while the files are still the old ones */
    return bad || io_commit(err) ? bad : cli_fail(command, "%s", err);
}

void cli_free_outputs(cli_output *out, int n)
{
    for (int i = 0; i < n; i++)
        free(out[i].data);
}
