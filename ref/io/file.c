/**
 * @file file.c
 * @brief Whole files in and out; a target is replaced by rename(2), so that it is either old or complete.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io.h"

/* ---- Reading ------------------------------------------------------------------------------------ */

static const char *kind(mode_t mode)
{
    return S_ISREG(mode) ? "a file" : S_ISDIR(mode) ? "a directory" : "a device, pipe or socket";
}

FILE *io_open(const char *path, size_t *bytes, io_error err)
{
    /* O_NONBLOCK: opening a pipe that nobody writes to would wait for ever. */
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0)
        io_fail(err, path, "cannot read: %s", strerror(errno));
    else if (!S_ISREG(st.st_mode))
        io_fail(err, path, "expected a file, found %s", kind(st.st_mode));
    else {
        *bytes = (size_t)st.st_size;
        FILE *f = fdopen(fd, "rb");
        if (f)
            return f;
        io_fail(err, path, "cannot read: %s", strerror(errno));
    }
    if (fd >= 0)
        close(fd);
    return NULL;
}

bool io_read(FILE *f, const char *path, void *to, size_t bytes, io_error err)
{
    size_t got = bytes ? fread(to, 1, bytes, f) : 0;
    if (got == bytes)
        return true;
    if (ferror(f))
        return io_fail(err, path, "cannot read: %s", strerror(errno));
    return io_fail(err, path, "shrank while it was read: expected %zu more bytes, found %zu", bytes, got);
}

bool io_read_file(const char *path, size_t max, unsigned char **data, size_t *bytes, io_error err)
{
    *data = NULL;
    FILE *f = io_open(path, bytes, err);
    if (!f)
        return false;
    unsigned char *all = NULL;
    bool ok = *bytes <= max || io_fail(err, path, "expected at most %zu bytes, found %zu", max, *bytes);
    if (ok && !(all = calloc(*bytes + 1, 1)))
        ok = io_fail(err, path, "no memory for its %zu bytes", *bytes);
    ok = ok && io_read(f, path, all, *bytes, err);
    fclose(f);
    if (!ok) {
        free(all);
        all = NULL;
    }
    *data = all;
    return ok;
}

/* ---- Writing ------------------------------------------------------------------------------------ */

/* "PATH.<pid>.tmp": beside the target, since a rename stays within a file system, and this process's own. */
static char *temporary_name(const char *path)
{
    size_t room = strlen(path) + 32;
    char *name = malloc(room);
    if (name)
        snprintf(name, room, "%s.%ld.tmp", path, (long)getpid());
    return name;
}

static int create(const char *name)
{
    unlink(name); /* what a dead process of the same number left */
    return open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
}

static bool write_all(int fd, const char *data, size_t bytes)
{
    while (bytes) {
        ssize_t n = write(fd, data, bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        data += n;
        bytes -= (size_t)n;
    }
    return true;
}

/* Fills `name`, flushes it and gives it its final name; errno says why not. */
static bool write_and_rename(const char *name, const char *path, const io_chunk *chunks, int n)
{
    int fd = create(name);
    if (fd < 0)
        return false;
    bool ok = true;
    for (int i = 0; i < n && ok; i++)
        ok = write_all(fd, chunks[i].data, chunks[i].bytes);
    /* Without the flush a power cut after the rename could leave an empty target. */
    ok = ok && fsync(fd) == 0;
    int why = errno;
    if (close(fd) != 0 && ok) {
        ok = false;
        why = errno;
    }
    if (ok && rename(name, path) == 0)
        return true;
    why = ok ? errno : why;
    unlink(name);
    errno = why;
    return false;
}

bool io_write_file(const char *path, const io_chunk *chunks, int n, io_error err)
{
    /* Renaming onto /dev/null would destroy it. */
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return io_fail(err, path, "cannot write: expected a file or nothing, found %s", kind(st.st_mode));
    char *name = temporary_name(path);
    if (!name)
        return io_fail(err, path, "cannot write: no memory");
    bool ok = write_and_rename(name, path, chunks, n);
    if (!ok)
        io_fail(err, path, "cannot write: %s", strerror(errno));
    free(name);
    return ok;
}

/* ---- Directories -------------------------------------------------------------------------------- */

/* Only creating a file tells whether one can: access(2) answers yes to root on a read-only medium. */
static bool can_create_in(const char *dir)
{
    size_t room = strlen(dir) + sizeof "/probe";
    char *probe = malloc(room);
    if (!probe)
        return false;
    snprintf(probe, room, "%s/probe", dir);
    char *name = temporary_name(probe);
    free(probe);
    int fd = name ? create(name) : -1;
    int why = errno;
    if (fd >= 0) {
        close(fd);
        unlink(name);
    }
    free(name);
    errno = why;
    return fd >= 0;
}

bool io_make_dir(const char *path, io_error err)
{
    struct stat st;
    if (mkdir(path, 0777) != 0 && errno != EEXIST)
        return io_fail(err, path, "cannot create the directory: %s", strerror(errno));
    if (stat(path, &st) != 0)
        return io_fail(err, path, "cannot use as a directory: %s", strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return io_fail(err, path, "expected a directory, found %s", kind(st.st_mode));
    if (!can_create_in(path))
        return io_fail(err, path, "cannot write into the directory: %s", strerror(errno));
    return true;
}
