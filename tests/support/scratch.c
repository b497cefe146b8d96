/**
 * @file scratch.c
 * @brief The scratch directory behind scratch.h.
 */
#include "scratch.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tap.h"

#define RING 8

static char dir[256];
static pid_t owner;

static void give_up(const char *what, const char *path)
{
    perror(path);
    printf("Bail out! cannot %s\n", what);
    exit(1);
}

/* The tests make no deeper tree than files in directories in the scratch directory. */
static void remove_tree(const char *path, int depth)
{
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        char child[1024];
        int length = snprintf(child, sizeof child, "%s/%s", path, e->d_name);
        if (length < (int)sizeof child && unlink(child) != 0 && depth > 0)
            remove_tree(child, depth - 1);
    }
    if (d)
        closedir(d);
    rmdir(path);
}

static void clean_up(void)
{
    if (getpid() == owner) // not a child that a test has forked
        remove_tree(dir, 1);
}

static const char *scratch_dir(void)
{
    if (!*dir) {
        const char *base = getenv("TMPDIR");
        snprintf(dir, sizeof dir, "%s/msa-test-XXXXXX", base && *base ? base : "/tmp");
        if (!mkdtemp(dir))
            give_up("make a scratch directory", dir);
        owner = getpid();
        atexit(clean_up);
    }
    return dir;
}

const char *scratch(const char *name)
{
    static char path[RING][1024];
    static int next;
    char *p = path[next = (next + 1) % RING];
    snprintf(p, sizeof path[0], "%s/%s", scratch_dir(), name);
    return p;
}

void scratch_put(const char *path, const void *data, size_t bytes)
{
    FILE *f = fopen(path, "wb");
    if (!f || (bytes && fwrite(data, 1, bytes, f) != bytes) || fclose(f) != 0)
        give_up("write a scratch file", path);
}

bool scratch_holds(const char *path, const void *data, size_t bytes)
{
    FILE *f = fopen(path, "rb");
    char *found = malloc(bytes + 1);
    bool same = f && found && fread(found, 1, bytes + 1, f) == bytes && memcmp(found, data, bytes) == 0;
    free(found);
    if (f)
        fclose(f);
    return same;
}

int scratch_count(void)
{
    int n = 0;
    DIR *d = opendir(scratch_dir());
    for (struct dirent *e; d && (e = readdir(d));)
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    if (d)
        closedir(d);
    return n;
}

bool scratch_no_error(bool ok, const char *err)
{
    if (!ok)
        tap_note("found the error '%s'", err);
    return ok;
}

bool scratch_one_line(const char *err, const char *path, const char *word)
{
    bool ok = *err && !strpbrk(err, "\n\r") && strncmp(err, path, strlen(path)) == 0 && strstr(err, word);
    if (!ok)
        tap_note("expected one line '%s: ...%s...', found '%s'", path, word, err);
    return ok;
}
