/**
 * @file set.c
 * @brief Files out, as a set that appears together.
 *
 * The files wait in DIR/.msa-XXXXXX, a directory of this process alone, written and flushed to disk; commit
 * renames them into DIR. What they replace is kept beside them, by a second name, until all is done: a rename
 * or a flush that fails puts it back. A set with a label has LABEL.sha256, which names the others and goes
 * into its place before them: whoever finds its sums to be right has the whole set, even if the machine died
 * in between. A file that no such list in the directory names is the user's, and not replaced.
 *
 * Whether the process that made a .msa-XXXXXX lives is told by the lock on it, which the system drops with
 * the process; the next set in that directory removes what the dead have left.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "io.h"
#include "sha256.h"
#include "staging.h"
#include "sums.h"

/* One file of the set. In the stage it is called by its number, so that a signal's handler can remove it. */
typedef struct member {
    char *name, sum[SHA256_TEXT];
    bool had, kept, renamed; /* an older file was there; it has its second name; it is replaced */
} member;

/* The one set that a process may have open. */
static struct {
    bool open, made_dir;
    char *path, *label;
    int dir, stage; /* descriptors */
    staging_name name;
    member *file;
    volatile sig_atomic_t n, deferring, caught;
} set;

/* ---- Signals ------------------------------------------------------------------------------------------- */

static const int signals[] = {SIGHUP, SIGINT, SIGQUIT, SIGPIPE, SIGTERM, SIGXCPU};
#define N_SIGNALS (sizeof signals / sizeof *signals)
static struct sigaction before[N_SIGNALS];

/* Removes the stage and lets the signal do what it would have done. While the renames run, and where somebody
 * else handles the signal, the set is ended first. */
static void on_signal(int number)
{
    size_t i = 0;
    while (signals[i] != number)
        i++;
    if (set.deferring || before[i].sa_handler != SIG_DFL) {
        set.caught = number;
        return;
    }
    /* Another thread may be about to create one more. */
    for (int trial = 0; trial < 1000; trial++) {
        staging_empty(set.stage, (int)set.n + 1);
        if (unlinkat(set.dir, set.name, AT_REMOVEDIR) == 0 || errno != ENOTEMPTY)
            break;
    }
    if (set.made_dir)
        rmdir(set.path);
    sigaction(number, &before[i], NULL);
    raise(number);
}

static void watch_signals(void)
{
    struct sigaction ours = {.sa_handler = on_signal};
    sigfillset(&ours.sa_mask);
    for (size_t i = 0; i < N_SIGNALS; i++) {
        sigaction(signals[i], NULL, &before[i]);
        if (before[i].sa_handler != SIG_IGN)
            sigaction(signals[i], &ours, NULL);
    }
}

static void release_signals(void)
{
    for (size_t i = 0; i < N_SIGNALS; i++)
        sigaction(signals[i], &before[i], NULL);
    if (set.caught)
        raise((int)set.caught);
    set.caught = 0;
}

static bool sync_parent(void)
{
    const int parent = openat(set.dir, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (parent < 0)
        return errno == EACCES; /* one that we may enter but not list */
    const bool ok = staging_sync(parent);
    close(parent);
    return ok;
}

/* ---- Begin and end ------------------------------------------------------------------------------------- */

static void end_set(void)
{
    for (int i = 0; i < set.n; i++)
        free(set.file[i].name);
    free(set.file);
    free(set.path);
    free(set.label);
    if (set.stage >= 0)
        close(set.stage);
    if (set.dir >= 0)
        close(set.dir);
    const int caught = (int)set.caught;
    memset(&set, 0, sizeof set);
    set.caught = caught;
}

void io_abandon(void)
{
    if (!set.open)
        return;
    set.deferring = 1;
    staging_empty(set.stage, (int)set.n);
    unlinkat(set.dir, set.name, AT_REMOVEDIR);
    if (set.made_dir)
        rmdir(set.path);
    end_set();
    release_signals();
}

/* Fills `set` but for its stage; errno and the text say why not. */
static const char *open_dir(const char *path, const char *label)
{
    set.path = strdup(*path ? path : ".");
    set.label = label ? strdup(label) : NULL;
    if (!set.path || (label && !set.label))
        return "no memory";
    set.dir = open(set.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return set.dir >= 0 ? NULL : strerror(errno);
}

/* `target` is what the message names: the directory, or the one file of a set without a label. */
static bool begin(const char *path, const char *label, bool make, const char *target, io_error err)
{
    memset(&set, 0, sizeof set);
    set.dir = set.stage = -1;
    const bool made = make && mkdir(path, 0777) == 0;
    if (make && !made && errno != EEXIST)
        return io_fail(err, target, "cannot create the directory: %s", strerror(errno));
    struct stat st;
    if (make && stat(path, &st) == 0 && !S_ISDIR(st.st_mode))
        return io_fail(err, target, "expected a directory, found %s", io_kind(st.st_mode));
    const char *why = open_dir(path, label);
    if (!why) {
        staging_remove_dead(set.dir);
        set.made_dir = made;
        watch_signals();
        set.deferring = 1;
        set.stage = staging_make(set.dir, set.name);
        set.open = set.stage >= 0;
        why = set.open ? NULL : strerror(errno);
        set.deferring = 0;
        if (!set.open)
            release_signals();
        else if (set.caught) /* before there was a stage to remove */
            raise((int)set.caught);
    }
    if (!why)
        return true;
    io_fail(err, target, make ? "cannot write into the directory: %s" : "cannot write: %s", why);
    end_set();
    if (made)
        rmdir(path);
    return false;
}

/* ---- Writing ------------------------------------------------------------------------------------------- */

#define PIECE ((size_t)1 << 24) /* what a signal waits for at most */

bool io_write_all(int fd, const void *from, size_t bytes)
{
    const char *data = from;
    while (bytes) {
        ssize_t n = write(fd, data, bytes < PIECE ? bytes : PIECE);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        data += n;
        bytes -= (size_t)n;
    }
    return true;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* A place in the list, with the name that the file will have. */
static member *new_member(const char *name)
{
    member *grown = realloc(set.file, ((size_t)set.n + 1) * sizeof *grown);
    if (!grown)
        return NULL;
    set.file = grown;
    member *m = &grown[set.n];
    *m = (member){.name = strdup(name)};
    return m->name ? m : NULL;
}

/* Writes the next file of the stage and flushes it to disk; errno says why not. */
static bool fill(member *m, const io_chunk *chunks, int n)
{
    number_name buffer;
    sha256 sum;
    sha256_begin(&sum);
    const char *name = staging_numbered((int)set.n, false, buffer);
    const int fd = openat(set.stage, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0)
        return false;
    bool ok = true;
    for (int i = 0; i < n && ok; i++) {
        ok = io_write_all(fd, chunks[i].data, chunks[i].bytes);
        if (ok && set.label)
            sha256_add(&sum, chunks[i].data, chunks[i].bytes);
    }
    /* Without the flush a power cut after the rename could leave an empty target. */
    ok = ok && fsync(fd) == 0;
    int why = errno;
    if (close(fd) != 0 && ok) {
        ok = false;
        why = errno;
    }
    sha256_end(&sum, m->sum);
    if (!ok)
        unlinkat(set.stage, name, 0);
    errno = why;
    return ok;
}

/* `path` is what the message names. */
static bool may_replace(int dir, const char *name, const char *path, io_error err)
{
    struct stat st;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) != 0 || sums_own(dir, name))
        return true;
    if (errno)
        return io_fail(err, path, "cannot write: a .sha256 file beside it cannot be read: %s",
                       strerror(errno));
    return io_fail(
        err, path,
        "cannot write: expected no file of that name, or one of an earlier result, which a .sha256 "
        "file beside it names");
}

bool io_may_replace(const char *dir, const char *name, io_error err)
{
    const int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const bool may = fd < 0 || may_replace(fd, name, name, err);
    if (fd >= 0)
        close(fd);
    return may;
}

static bool add(const char *path, const io_chunk *chunks, int n, io_error err)
{
    /* Renaming onto /dev/null, or onto /dev/stdout, which is a link, would destroy it. */
    struct stat st;
    if (fstatat(set.dir, base_name(path), &st, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISREG(st.st_mode))
        return io_fail(err, path, "cannot write: expected a file or nothing, found %s", io_kind(st.st_mode));
    if (set.label && !may_replace(set.dir, base_name(path), path, err))
        return false;
    member *m = new_member(base_name(path));
    if (!m)
        return io_fail(err, path, "cannot write: no memory");
    if (fill(m, chunks, n)) {
        set.n = set.n + 1;
        return true;
    }
    const int why = errno;
    free(m->name);
    return io_fail(err, path, "cannot write: %s", strerror(why));
}

/* ---- Commit -------------------------------------------------------------------------------------------- */

static bool is_new(const char *name)
{
    for (int i = 0; i < set.n; i++)
        if (strcmp(set.file[i].name, name) == 0)
            return true;
    return false;
}

/* LABEL.sha256: the sums of what is written now, and the names of what earlier sets have left beside it. */
static bool add_sums(io_error err)
{
    char *path = malloc(strlen(set.path) + strlen(set.label) + sizeof "/.sha256");
    if (!path)
        return io_fail(err, set.path, "cannot write: no memory");
    sprintf(path, "%s/%s.sha256", set.path, set.label);
    char *earlier = sums_read(set.dir, base_name(path)), *rest = earlier, *name;
    if (!earlier && errno) {
        io_fail(err, path, "cannot read: %s", strerror(errno));
        free(path);
        return false;
    }
    size_t capacity = 1 + (earlier ? 3 * strlen(earlier) : 0), used = 0;
    for (int i = 0; i < set.n; i++)
        capacity += SHA256_TEXT + 2 + strlen(set.file[i].name);
    char *text = malloc(capacity);
    bool ok = text || io_fail(err, set.path, "cannot write: no memory");
    for (int i = 0; i < set.n && ok; i++)
        used += (size_t)snprintf(text + used, capacity - used, "%s  %s\n", set.file[i].sum, set.file[i].name);
    while (ok && earlier && (name = sums_next(&rest)) != NULL)
        if (!is_new(name))
            used += (size_t)snprintf(text + used, capacity - used, "# %s\n", name);
    ok = ok && add(path, &(io_chunk){text, used}, 1, err);
    free(earlier);
    free(text);
    free(path);
    return ok;
}

/* Gives the file that is to be replaced a second name. Where a file system has no such names, a failure in
 * the middle leaves a set without its sums, which is as visible. */
static bool keep_old(int i)
{
    number_name buffer;
    struct stat st;
    member *m = &set.file[i];
    m->had = fstatat(set.dir, m->name, &st, AT_SYMLINK_NOFOLLOW) == 0;
    m->kept = m->had && linkat(set.dir, m->name, set.stage, staging_numbered(i, true, buffer), 0) == 0;
    return m->kept || !m->had || (errno != EIO && errno != ENOSPC && errno != EDQUOT);
}

static bool put_in_place(int i)
{
    number_name buffer;
    member *m = &set.file[i];
    m->renamed = renameat(set.stage, staging_numbered(i, false, buffer), set.dir, m->name) == 0;
    return m->renamed;
}

static void put_back(int i)
{
    number_name buffer;
    member *m = &set.file[i];
    if (m->kept)
        renameat(set.stage, staging_numbered(i, true, buffer), set.dir, m->name);
    else if (m->renamed && !m->had)
        unlinkat(set.dir, m->name, 0);
}

/* The sums are the last of the files, and go into their place first: from then on they say that the set is
 * not whole, until it is, and which files are its. */
static bool replace_all(int *at)
{
    const int n = (int)set.n;
    for (*at = 0; *at < n; ++*at)
        if (!keep_old(*at))
            return false;
    *at = n - 1;
    if (set.label && (!put_in_place(n - 1) || !staging_sync(set.dir)))
        return false;
    for (*at = 0; *at < (set.label ? n - 1 : n); ++*at)
        if (!put_in_place(*at))
            return false;
    *at = n - 1;
    return staging_sync(set.dir) && (!set.made_dir || sync_parent());
}

/* One set at a time is put in place: of two at once, files of both would stay. Nobody waits for ever for
 * somebody who holds the lock for longer than that takes; the sums then tell. */
static void wait_for_turn(void)
{
    for (int trial = 0; trial < 5000 && flock(set.dir, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
         trial++)
        nanosleep(&(struct timespec){0, 1000000}, NULL);
}

bool io_commit(io_error err)
{
    if (set.label && !add_sums(err)) {
        io_abandon();
        return false;
    }
    int at = 0;
    wait_for_turn();
    set.deferring = 1;
    const bool ok = set.n == 0 || replace_all(&at);
    if (!ok) {
        const int why = errno;
        char *name = set.file[at].name; /* of the file, or of all of it */
        char path[IO_ERR];
        snprintf(path, sizeof path, "%s/%s", set.path, name);
        io_fail(err, path, "cannot write: %s", strerror(why));
        for (int i = 0; i < set.n; i++)
            put_back(i);
    } else {
        set.made_dir = false;
    }
    io_abandon();
    return ok;
}

bool io_begin(const char *dir, const char *label, io_error err)
{
    return begin(dir, label, true, dir, err);
}

bool io_write_file(const char *path, const io_chunk *chunks, int n, io_error err)
{
    if (set.open)
        return add(path, chunks, n, err);
    const char *name = base_name(path);
    char *dir = strndup(path, name - path > 1 ? (size_t)(name - path) - 1 : (size_t)(name - path));
    if (!dir)
        return io_fail(err, path, "cannot write: no memory");
    bool ok =
        *name ? begin(dir, NULL, false, path, err) : io_fail(err, path, "cannot write: expected a name");
    free(dir);
    if (!ok)
        return false;
    ok = add(path, chunks, n, err);
    if (ok)
        return io_commit(err);
    io_abandon();
    return false;
}
