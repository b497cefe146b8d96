/**
 * @file file.c
 * @brief Whole files in; set.c writes them.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io.h"

const char *io_kind(mode_t mode)
{
    return S_ISREG(mode)   ? "a file"
           : S_ISDIR(mode) ? "a directory"
           : S_ISLNK(mode) ? "a symbolic link"
                           : "a device, pipe or socket";
}

/* What this process has read, by its identity: names of one file may differ. A file beyond the table would
 * only not be protected from this command's own results. */
#define MOST_READ 64
static struct {
    dev_t device;
    ino_t number;
} were_read[MOST_READ];
static int n_read;

bool io_was_read(const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return false;
    for (int i = 0; i < n_read; i++)
        if (were_read[i].device == st.st_dev && were_read[i].number == st.st_ino)
            return true;
    return false;
}

FILE *io_open(const char *path, size_t *bytes, io_error err)
{
    /* O_NONBLOCK: opening a pipe that nobody writes to would wait for ever. */
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0)
        io_fail(err, path, "cannot read: %s", strerror(errno));
    else if (!S_ISREG(st.st_mode))
        io_fail(err, path, "expected a file, found %s", io_kind(st.st_mode));
    else {
        *bytes = (size_t)st.st_size;
        if (n_read < MOST_READ) {
            were_read[n_read].device = st.st_dev;
            were_read[n_read++].number = st.st_ino;
        }
        FILE *f = fdopen(fd, "rb");
        if (f)
            return f;
        io_fail(err, path, "cannot read: %s", strerror(errno));
    }
    if (fd >= 0)
        close(fd);
    return NULL;
}

/* What is to be said where only `got` bytes came; `failed`: errno tells. */
static bool check_read(const char *path, size_t bytes, size_t got, bool failed, io_error err)
{
    if (got == bytes)
        return true;
    if (failed)
        return io_fail(err, path, "cannot read: %s", strerror(errno));
    return io_fail(err, path, "shrank while it was read: expected %zu more bytes, found %zu", bytes, got);
}

bool io_read(FILE *f, const char *path, void *to, size_t bytes, io_error err)
{
    const size_t got = bytes ? fread(to, 1, bytes, f) : 0;
    return check_read(path, bytes, got, ferror(f), err);
}

bool io_read_at(FILE *f, const char *path, off_t at, void *to, size_t bytes, io_error err)
{
    size_t got = 0;
    ssize_t n = 1;
    while (got < bytes && n > 0) {
        n = pread(fileno(f), (char *)to + got, bytes - got, at + (off_t)got);
        got += n > 0 ? (size_t)n : 0;
        if (n < 0 && errno == EINTR)
            n = 1;
    }
    return check_read(path, bytes, got, n < 0, err);
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
