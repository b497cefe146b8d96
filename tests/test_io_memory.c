/**
 * @file test_io_memory.c
 * @brief How much memory is left, on machines that are made up: what the kernel's files would say there, with
 * control groups of both layouts, swap, limits, and files that are missing.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "support/tap.h"

/* ---- The machine that ref/io/memory.c sees ------------------------------------------------------------- */

static struct {
    const char *file[12][2]; // path, text; up to the first NULL
    rlim_t limit;
    bool no_limit_known;
} seen;

static int open_files;

static FILE *see(const char *path, const char *mode)
{
    for (int a = 0; seen.file[a][0]; a++)
        if (strcmp(path, seen.file[a][0]) == 0) {
            open_files++;
            return fmemopen((void *)(size_t)seen.file[a][1], strlen(seen.file[a][1]), mode);
        }
    return NULL;
}

static int see_close(FILE *f)
{
    open_files--;
    return fclose(f);
}

static int see_limit(int which, struct rlimit *limit)
{
    limit->rlim_cur = which == RLIMIT_AS ? seen.limit : 1;
    return seen.no_limit_known ? -1 : 0;
}

static long see_conf(int which)
{
    return which == _SC_PAGESIZE ? 1000 : which == _SC_PHYS_PAGES ? 5400 : -1;
}

#define fopen see
#define fclose see_close
#define getrlimit(which, limit) see_limit((int)which, limit)
#define sysconf see_conf
#define io_memory_left left_here
#define io_memory_idle idle_here
#include "../ref/io/memory.c"

/* ---- What is left there -------------------------------------------------------------------------------- */

#define STATM                                                                                                \
    {                                                                                                        \
        "/proc/self/statm", "900 50 20 5 0 30 0\n"                                                           \
    } // nothing taken that is not used: 30 - (50 - 20)
#define PLENTY                                                                                               \
    {                                                                                                        \
        "/proc/meminfo", "MemTotal: 9 kB\nMemFree: 3 kB\nMemAvailable:   5000 kB\nSwapFree:    200 kB\n"     \
    }
#define NO_LIMIT .limit = RLIM_INFINITY

static void left(double expected, const char *where)
{
    const double found = io_memory_left();
    tap(found == expected && open_files == 0, "%s: %.0f bytes (found %.0f, %d files open)", where, expected,
        found, open_files);
}

#define MACHINE(...)                                                                                         \
    seen = (__typeof__(seen))                                                                                \
    {                                                                                                        \
        __VA_ARGS__                                                                                          \
    }

static void machines(void)
{
    const double plenty = 1024 * 5200.0;
    MACHINE({STATM, PLENTY}, NO_LIMIT);
    left(plenty, "what is available, and swap");
    MACHINE({STATM, {"/proc/meminfo", "MemAvailable: 5000 kB\n"}}, NO_LIMIT);
    left(1024 * 5000.0, "no swap");
    MACHINE({{"/proc/self/statm", "900 50 20 5 0 130 0\n"}, PLENTY}, NO_LIMIT);
    left(plenty - 100 * 1000, "pages taken and not used yet are gone");
    MACHINE({{"/proc/self/statm", "900 50 20 5 0 10 0\n"}, PLENTY}, NO_LIMIT);
    left(plenty, "more pages used than taken");
    MACHINE({{"/proc/self/statm", "9000 50 20 5 0 9000 0\n"}, PLENTY}, NO_LIMIT);
    left(0, "never less than nothing");
    MACHINE({PLENTY}, NO_LIMIT);
    left(5400 * 1000, "a process of unknown size: the whole machine");
    MACHINE({{"/proc/self/statm", "900 50 20\n"}, PLENTY}, NO_LIMIT);
    left(5400 * 1000, "half known");
    MACHINE({STATM}, NO_LIMIT);
    left(5400 * 1000, "a machine of unknown memory");
}

static void limits(void)
{
    MACHINE({STATM, PLENTY}, .limit = 1000000);
    left(100000, "an address space with a limit");
    MACHINE({STATM, PLENTY}, .limit = 1000000, .no_limit_known = true);
    left(1024 * 5200.0, "a limit that cannot be read");
}

static void groups(void)
{
    MACHINE({STATM,
             PLENTY,
             {"/proc/self/cgroup", "0::/a/b\n"},
             {"/sys/fs/cgroup/a/b/memory.max", "90000\n"},
             {"/sys/fs/cgroup/a/b/memory.current", "50000\n"},
             {"/sys/fs/cgroup/a/memory.max", "70000\n"},
             {"/sys/fs/cgroup/a/memory.current", "60000\n"}},
            NO_LIMIT);
    left(10000, "a group and the one above it");
    seen.file[7][0] = "/sys/fs/cgroup/a/memory.stat",
    seen.file[7][1] = "anon 5\ninactive_file 2000\nactive_file 9\n";
    left(12000, "caches are given back");
    seen.file[8][0] = "/sys/fs/cgroup/memory.max", seen.file[8][1] = "4000\n";
    seen.file[9][0] = "/sys/fs/cgroup/memory.current", seen.file[9][1] = "1000\n";
    left(3000, "the root has a limit too");
    MACHINE({STATM,
             PLENTY,
             {"/proc/self/cgroup", "0::/a\n"},
             {"/sys/fs/cgroup/a/memory.max", "max\n"},
             {"/sys/fs/cgroup/a/memory.current", "50000\n"}},
            NO_LIMIT);
    left(1024 * 5200.0, "a group without a limit");
    MACHINE({STATM,
             PLENTY,
             {"/proc/self/cgroup", "12:cpu:/c\n3:memory:/a\n1:name=systemd:/s\n"},
             {"/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "8000\n"},
             {"/sys/fs/cgroup/memory/a/memory.usage_in_bytes", "3000\n"},
             {"/sys/fs/cgroup/memory/a/memory.stat", "inactive_file 1\ntotal_inactive_file 500\n"}},
            NO_LIMIT);
    left(5500, "the older layout");
}

int main(void)
{
    machines();
    limits();
    groups();
    MACHINE({{"/proc/self/statm", "900 50 20 5 0 130 0\n"}, PLENTY}, NO_LIMIT);
    io_memory_idle(60 * 1000);
    left(1024 * 5200.0 - 40 * 1000, "memory that is known to stay idle is not counted as gone");
    MACHINE({{"/proc/self/statm", "20000000900 50 20 5 0 20000000130 0\n"}, PLENTY}, NO_LIMIT);
    left(1024 * 5200.0, "more than the machine has is reserved, not handed out");
    return tap_done();
}
