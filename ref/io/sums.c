#include "sums.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io.h"
#include "sha256.h"

#define SUFFIX ".sha256"
#define MOST ((size_t)1 << 22)

/* The name in a line without its end, or NULL: 64 digits and two spaces go before it, or "# ". */
static char *name_in(char *line)
{
    const size_t digits = strspn(line, "0123456789abcdef");
    if (digits == SHA256_TEXT - 1 && strncmp(line + digits, "  ", 2) == 0 && line[digits + 2])
        return line + digits + 2;
    return strncmp(line, "# ", 2) == 0 && line[2] ? line + 2 : NULL;
}

char *sums_next(char **rest)
{
    char *line = *rest, *end = strchr(line, '\n');
    if (!end)
        return NULL;
    *end = '\0';
    *rest = end + 1;
    return name_in(line);
}

static bool is_text_of_sums(char *text)
{
    bool ok = *text != '\0';
    for (char *end; ok && *text; text = end + 1) {
        end = strchr(text, '\n');
        if (!end)
            return false;
        *end = '\0';
        ok = name_in(text) != NULL;
        *end = '\n';
    }
    return ok;
}

char *sums_read(int dir, const char *file)
{
    const int fd = openat(dir, file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
    char *text = f ? malloc(MOST + 1) : NULL;
    const size_t bytes = text ? fread(text, 1, MOST, f) : 0;
    const int why = text && !ferror(f) ? 0 : errno;
    if (f)
        fclose(f);
    else if (fd >= 0)
        close(fd);
    if (text)
        text[bytes] = '\0';
    if (text && why == 0 && is_text_of_sums(text))
        return text;
    free(text);
    errno = why == ENOENT || why == ELOOP ? 0 : why;
    return NULL;
}

/* *why changes where the file could not be read. */
static bool lists(int dir, const char *file, const char *name, int *why)
{
    char *text = sums_read(dir, file), *rest = text, *next = NULL;
    bool found = text && strcmp(file, name) == 0;
    if (!text && errno)
        *why = errno;
    while (text && !found && (next = sums_next(&rest)) != NULL)
        found = strcmp(next, name) == 0;
    free(text);
    return found;
}

bool sums_own(int dir, const char *name)
{
    const int again = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *list = again < 0 ? NULL : fdopendir(again);
    int why = list ? 0 : errno;
    bool found = false;
    for (struct dirent *e = list ? readdir(list) : NULL; e && !found; e = readdir(list)) {
        const size_t n = strlen(e->d_name);
        found = n > strlen(SUFFIX) && strcmp(e->d_name + n - strlen(SUFFIX), SUFFIX) == 0 &&
                lists(dir, e->d_name, name, &why);
    }
    if (list)
        closedir(list);
    else if (again >= 0)
        close(again);
    errno = why;
    return found;
}
