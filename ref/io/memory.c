/**
 * @file memory.c
 * @brief How much memory this process can still take.
 *
 * malloc alone would say yes to almost anything, since pages count from their first use on, and the process
 * would be killed in the middle of its work. What was handed out and not used yet is therefore counted as
 * gone.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "io.h"

/* The number behind `key` in a small file of the kernel's; -1 where there is none. */
static double number_in(const char *path, const char *key)
{
    char line[256];
    double value = -1;
    FILE *f = fopen(path, "r");
    while (f && value < 0 && fgets(line, sizeof line, f))
        if (strncmp(line, key, strlen(key)) == 0)
            sscanf(line + strlen(key), "%lf", &value);
    if (f)
        fclose(f);
    return value;
}

/* The two layouts of control groups: how a line of /proc/self/cgroup begins, behind its number, and the
 * files. */
static const struct {
    const char *line, *root, *most, *used, *cache;
} layout[] = {
    {":", "/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file "},
    {"memory:", "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
     "total_inactive_file "},
};

/* What the groups from `path` up to the root leave, each with its own limit. */
static double group_left(size_t which, const char *group)
{
    char path[4200], file[4300];
    double left = INFINITY;
    snprintf(path, sizeof path, "%s%s", layout[which].root, group);
    do {
        snprintf(file, sizeof file, "%s/%s", path, layout[which].most);
        const double most = number_in(file, "");
        snprintf(file, sizeof file, "%s/%s", path, layout[which].used);
        const double used = number_in(file, "");
        snprintf(file, sizeof file, "%s/memory.stat", path);
        const double cache = number_in(file, layout[which].cache); /* given back when wanted */
        if (most >= 0 && used >= 0)
            left = fmin(left, most - used + fmax(cache, 0));
        *strrchr(path, '/') = 0;
    } while (strlen(path) >= strlen(layout[which].root));
    return left;
}

static double cgroups_left(void)
{
    char line[4096];
    double left = INFINITY;
    FILE *f = fopen("/proc/self/cgroup", "r");
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        const char *rest = strchr(line, ':');
        for (size_t i = 0; rest && i < sizeof layout / sizeof *layout; i++)
            if (strncmp(rest + 1, layout[i].line, strlen(layout[i].line)) == 0)
                left = fmin(left, group_left(i, rest + 1 + strlen(layout[i].line)));
    }
    if (f)
        fclose(f);
    return left;
}

static double idle;

void io_memory_idle(double bytes)
{
    idle += bytes;
}

double io_memory_left(void)
{
    const double page = (double)sysconf(_SC_PAGESIZE);
    double size = 0, resident = 0, shared = 0, data = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    const bool known = f && fscanf(f, "%lf %lf %lf %*f %*f %lf", &size, &resident, &shared, &data) == 4;
    if (f)
        fclose(f);
    const double machine = number_in("/proc/meminfo", "MemAvailable:");
    if (!known || machine < 0)
        return (double)sysconf(_SC_PHYS_PAGES) * page;
    const double swap = number_in("/proc/meminfo", "SwapFree:");
    double unused = (data - (resident - shared)) * page - idle;
    if (unused > 4 * (double)sysconf(_SC_PHYS_PAGES) * page) /* a sanitizer's shadow: reserved, not to be filled */
        unused = 0;
    double left = fmin(1024 * (machine + fmax(swap, 0)), cgroups_left()) - fmax(unused, 0);
    struct rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        left = fmin(left, (double)limit.rlim_cur - size * page);
    return fmax(left, 0);
}
