/* The directory where the files of a set wait: made, emptied, and removed when its maker is dead. */
#include "staging.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* "17.new" or "17.old"; by hand, since snprintf is not for handlers. */
const char *staging_numbered(int i, bool old, number_name to)
{
    char *c = to + sizeof(number_name) - 5;
    memcpy(c, old ? ".old" : ".new", 5);
    do
        *--c = (char)('0' + i % 10);
    while (i /= 10);
    return c;
}

void staging_empty(int stage, int n)
{
    number_name name;
    for (int i = 0; i < n; i++) {
        unlinkat(stage, staging_numbered(i, false, name), 0);
        unlinkat(stage, staging_numbered(i, true, name), 0);
    }
}

static bool is_stage(const char *name)
{
    return strncmp(name, STAGE_PREFIX, sizeof STAGE_PREFIX - 1) == 0 &&
           strlen(name) == sizeof STAGE_PREFIX - 1 + STAGE_DIGITS;
}

static bool is_member(const char *name)
{
    const size_t digits = strspn(name, "0123456789");
    return digits && (strcmp(name + digits, ".new") == 0 || strcmp(name + digits, ".old") == 0);
}

typedef bool name_test(const char *name);

/* Calls remove(dir, name) for what a directory holds under such names. What cannot be listed stays. */
static void remove_each(int dir, name_test *wanted, void (*remove)(int dir, const char *name))
{
    const int again = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *list = again < 0 ? NULL : fdopendir(again);
    for (struct dirent *e = list ? readdir(list) : NULL; e; e = readdir(list))
        if (wanted(e->d_name))
            remove(dir, e->d_name);
    if (list)
        closedir(list);
    else if (again >= 0)
        close(again);
}

static void remove_file(int dir, const char *name)
{
    unlinkat(dir, name, 0);
}

static void remove_if_dead(int dir, const char *name)
{
    const int stage = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (stage < 0)
        return;
    if (flock(stage, LOCK_EX | LOCK_NB) == 0) {
        remove_each(stage, is_member, remove_file);
        unlinkat(dir, name, AT_REMOVEDIR);
    }
    close(stage);
}

/* Whether the open directory is still what its name says: somebody may have taken it for a dead one's between
 * its making and its lock. */
static bool still_named(int dir, const char *name, int stage)
{
    struct stat here, there;
    return fstat(stage, &here) == 0 && fstatat(dir, name, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
           here.st_dev == there.st_dev && here.st_ino == there.st_ino;
}

void staging_remove_dead(int dir)
{
    remove_each(dir, is_stage, remove_if_dead);
}

/* mkdir(2) is what makes the name ours alone: equal process numbers on two machines only cost a second try.
 */
int staging_make(int dir, staging_name name)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t x = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    x ^= (uint64_t)getpid() << 40;
    for (int trial = 0; trial < 100; trial++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        snprintf(name, sizeof(staging_name), STAGE_PREFIX "%012llx", (unsigned long long)(x >> 16));
        if (mkdirat(dir, name, 0700) != 0) {
            if (errno == EEXIST)
                continue;
            return -1;
        }
        const int stage = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        const int why = errno;
        /* Where there are no locks, nobody removes leftovers either. */
        if (stage >= 0 && (flock(stage, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) &&
            still_named(dir, name, stage))
            return stage;
        if (stage >= 0)
            close(stage);
        else if (why != ENOENT) { /* or it was taken for a dead one's even sooner */
            unlinkat(dir, name, AT_REMOVEDIR);
            errno = why;
            return -1;
        }
    }
    errno = EAGAIN;
    return -1;
}

/* Some file systems have nothing to flush for a directory, and say so. */
bool staging_sync(int dir)
{
    return fsync(dir) == 0 || errno == EINVAL;
}
