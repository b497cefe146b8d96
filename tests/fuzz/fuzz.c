/**
 * @file fuzz.c
 * @brief The files behind fuzz.h, in $TMPDIR (best in memory: run.sh sees to that).
 */
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char *in_temporary_directory(char *path, size_t room, const char *name)
{
    const char *dir = getenv("TMPDIR");
    snprintf(path, room, "%s/%s-%ld", dir ? dir : "/tmp", name, (long)getpid());
    return path;
}

const char *fuzz_file(const uint8_t *data, size_t bytes)
{
    static char path[1024];
    FILE *f = fopen(in_temporary_directory(path, sizeof path, "fuzz-input"), "wb");
    fuzz_demand(f != NULL, "a file for the input", path);
    fuzz_demand(fwrite(data, 1, bytes, f) == bytes, "room for the input", path);
    fuzz_demand(fclose(f) == 0, "room for the input", path);
    return path;
}

const char *fuzz_copy(void)
{
    static char path[1024];
    return in_temporary_directory(path, sizeof path, "fuzz-copy");
}

void fuzz_demand(int ok, const char *what, const char *found)
{
    if (ok)
        return;
    fprintf(stderr, "fuzz: expected %s, found '%s'\n", what, found);
    abort();
}
