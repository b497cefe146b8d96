/* The loss curve. The run's state knows how long it was and what was in it, so that a run that goes on can
 * tell its own curve from anybody else's file, and cut off what came after the state, torn rows too. */
#include "curve.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define EXTENSION ".safetensors"

void curve_name(curve *c, const char *path)
{
    const size_t n = strlen(path), cut = sizeof EXTENSION - 1;
    const bool named = n > cut && path[n - cut - 1] != '/' && strcmp(path + n - cut, EXTENSION) == 0;
    snprintf(c->path, sizeof c->path, "%.*s.csv", (int)(named ? n - cut : n), path);
    c->fd = -1;
}

/* FNV-1a, which can go on where it stopped; of nothing it is 0 here. */
static uint64_t hash(uint64_t h, const char *text, size_t n)
{
    h = h ? h : 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)text[i]) * 0x100000001b3u;
    return h;
}

/* The hash of the first n bytes; false where there are fewer. */
static bool hash_file(int fd, int64_t n, uint64_t *sum)
{
    char piece[4096];
    *sum = 0;
    for (int64_t at = 0; at < n;) {
        const int64_t here = n - at < (int64_t)sizeof piece ? n - at : (int64_t)sizeof piece;
        const ssize_t got = pread(fd, piece, (size_t)here, (off_t)at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        *sum = hash(*sum, piece, (size_t)got);
        at += got;
    }
    return true;
}

/* A run that was killed before its first state may have left the header or a part of it, and nothing to lose.
 */
static bool is_new(int fd, const char *header)
{
    char found[256];
    const ssize_t n = pread(fd, found, sizeof found, 0);
    return n >= 0 && (size_t)n <= strlen(header) && memcmp(found, header, (size_t)n) == 0;
}

static bool check(const curve *c, const char *header, io_error err)
{
    uint64_t sum;
    struct stat st;
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fstat(c->fd, &st) != 0)
        return io_fail(err, c->path, "%s", strerror(errno));
    if (!S_ISREG(st.st_mode))
        return io_fail(err, c->path, "expected a file for the loss curve, found %s", io_kind(st.st_mode));
    if (fcntl(c->fd, F_SETLK, &lock) != 0)
        return errno == EAGAIN || errno == EACCES
                   ? io_fail(err, c->path, "expected no other run writing here, found one")
                   : io_fail(err, c->path, "cannot lock: %s", strerror(errno));
    if (c->known->bytes == 0 && !is_new(c->fd, header))
        return io_fail(err, c->path,
                       "expected a name that is free for the loss curve, found a file; remove it or choose "
                       "another --out");
    if (!hash_file(c->fd, c->known->bytes, &sum) || sum != c->known->hash)
        return io_fail(err, c->path,
                       "expected the loss curve that the state of this run belongs to, found another file");
    return true;
}

bool curve_open(curve *c, train_curve *known, const char *header, io_error err)
{
    const int flags = O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    c->known = known;
    c->fd = known->bytes == 0 ? open(c->path, flags | O_CREAT | O_EXCL, 0666) : -1;
    c->created = c->fd >= 0;
    if (c->fd < 0 && (known->bytes > 0 || errno == EEXIST))
        c->fd = open(c->path, flags);
    if (c->fd < 0)
        return io_fail(err, c->path, errno == ELOOP ? "expected a file, found a symbolic link" : "%s",
                       strerror(errno));
    if (!check(c, header, err))
        return false;
    const bool ok = ftruncate(c->fd, (off_t)known->bytes) == 0 ||
                    io_fail(err, c->path, "cannot write: %s", strerror(errno));
    if (ok && (known->bytes > 0 || curve_add(c, header, err)))
        return true;
    curve_undo(c);
    return false;
}

void curve_undo(const curve *c)
{
    if (c->created)
        unlink(c->path);
}

bool curve_add(curve *c, const char *row, io_error err)
{
    const size_t n = strlen(row);
    if (lseek(c->fd, (off_t)c->known->bytes, SEEK_SET) < 0 || !io_write_all(c->fd, row, n)) {
        io_fail(err, c->path, "cannot write: %s", strerror(errno));
        /* What cannot be cut off now, the next run will. */
        return ftruncate(c->fd, (off_t)c->known->bytes) != 0 && false;
    }
    c->known->bytes += (int64_t)n;
    c->known->hash = hash(c->known->hash, row, n);
    return true;
}

bool curve_sync(const curve *c, io_error err)
{
    return fsync(c->fd) == 0 || io_fail(err, c->path, "cannot write: %s", strerror(errno));
}

void curve_close(curve *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
}
