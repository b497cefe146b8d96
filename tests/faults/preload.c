/* Preloaded into the program, it lets one call of a kind fail: FAULT=KIND:N the N-th after main began,
 * FAULT=KIND:N+ all from there on. Kinds: alloc, map, print (to standard output), write, sync, close, rename,
 * open (for writing), and kill:N, which sends the signal FAULT_SIGNAL (9) before the N-th call that changes
 * files; flush, which aborts where a file is closed that was written and not flushed to disk; heap, which
 * aborts where the program writes behind a block, or leaves a block or a descriptor after success; places,
 * which lets nothing fail and lists where the calls of every kind come from.
 * FAULT_LOG=FILE gets that list, or a byte once the N-th call came. */
#define _GNU_SOURCE
#include "heap.h"
#include "places.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef enum kind {
    ALLOC,
    MAP,
    PRINT,
    WRITE,
    SYNC,
    CLOSE,
    RENAME,
    OPEN,
    KILL,
    FLUSH,
    HEAP,
    PLACES,
    N_KINDS
} kind;
static const char *const names[N_KINDS] = {"alloc",  "map",  "print", "write", "sync", "close",
                                           "rename", "open", "kill",  "flush", "heap", "places"};
static kind chosen = N_KINDS;
static long nth;
static bool onward;
static int with = SIGKILL;
static const char *note;
static atomic_bool armed; /* while main runs */
static atomic_long calls[N_KINDS];

static void read_words(void)
{
    const char *fault = getenv("FAULT"), *colon = fault ? strchr(fault, ':') : NULL;
    const size_t n = !fault ? 0 : colon ? (size_t)(colon - fault) : strlen(fault);
    for (int k = 0; k < N_KINDS; k++)
        if (strlen(names[k]) == n && memcmp(fault, names[k], n) == 0)
            chosen = (kind)k;
    nth = colon ? strtol(colon + 1, NULL, 10) : 0;
    onward = colon && strchr(colon, '+');
    note = getenv("FAULT_LOG");
    if (getenv("FAULT_SIGNAL"))
        with = atoi(getenv("FAULT_SIGNAL"));
}

static bool is_due(kind k)
{
    if ((k != chosen && chosen != PLACES) || !armed)
        return false;
    const long n = atomic_fetch_add(&calls[k], 1) + 1;
    if (chosen == PLACES) {
        places_note(k, n);
        return false;
    }
    if (n == nth && note) { /* by system calls: functions would come back here */
        const int fd = (int)syscall(SYS_openat, AT_FDCWD, note, O_WRONLY | O_CREAT, 0666);
        syscall(SYS_write, fd, "!", 1);
        syscall(SYS_close, fd);
    }
    return n == nth || (onward && n > nth);
}

/* Whether a call of this kind is to fail, and with what; every one that changes files may be the last, of
 * writes in a row the first. */
static bool fails(kind k, int error)
{
    static atomic_int before;
    if (k > PRINT && (atomic_exchange(&before, (int)k) != WRITE || k != WRITE) && is_due(KILL))
        kill(getpid(), with);
    if (!is_due(k))
        return false;
    errno = error;
    return true;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* ---- Where main begins and ends ------------------------------------------------------------------------ */

typedef int main_fn(int, char **, char **);
static main_fn *program;

/* The C library prints by ways of its own: standard output is replaced by one that comes here. */
static ssize_t print(void *cookie, const char *text, size_t n)
{
    (void)cookie;
    return fails(PRINT, EIO) ? 0 : (ssize_t)syscall(SYS_write, 1, text, n);
}

static int watched(int argc, char **argv, char **envp)
{
    read_words();
    if (chosen == PRINT || chosen == PLACES)
        stdout = fopencookie(NULL, "w", (cookie_io_functions_t){.write = print});
    if (chosen == HEAP)
        heap_begin();
    if (chosen == PLACES)
        places_begin();
    armed = true;
    const int status = program(argc, argv, envp);
    armed = false;
    if (chosen == HEAP && status == 0)
        heap_end();
    if (chosen == PLACES)
        places_write(note, names);
    return status;
}

int __libc_start_main(main_fn *run, int argc, char **argv, void (*init)(void), void (*fini)(void),
                      void (*rtld_fini)(void), void *stack_end);
int __libc_start_main(main_fn *run, int argc, char **argv, void (*init)(void), void (*fini)(void),
                      void (*rtld_fini)(void), void *stack_end)
{
    program = run;
    return REAL(__libc_start_main)(watched, argc, argv, init, fini, rtld_fini, stack_end);
}

/* ---- Memory -------------------------------------------------------------------------------------------- */

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t),
    *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

#define CALLER __builtin_return_address(0)
#define ALIGNMENT _Alignof(max_align_t)

void *malloc(size_t n)
{
    if (fails(ALLOC, ENOMEM))
        return NULL;
    return chosen == HEAP ? heap_take(ALIGNMENT, n, CALLER) : __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    if (fails(ALLOC, ENOMEM))
        return NULL;
    if (chosen != HEAP || (size && n > PTRDIFF_MAX / size))
        return __libc_calloc(n, size);
    void *p = heap_take(ALIGNMENT, n * size, CALLER);
    return p ? memset(p, 0, n * size) : NULL;
}

void *realloc(void *p, size_t n)
{
    if (fails(ALLOC, ENOMEM))
        return NULL;
    return chosen == HEAP ? heap_move(p, n, CALLER) : __libc_realloc(p, n);
}

void *aligned_alloc(size_t alignment, size_t n)
{
    if (fails(ALLOC, ENOMEM))
        return NULL;
    return chosen == HEAP ? heap_take(alignment, n, CALLER) : __libc_memalign(alignment, n);
}

int posix_memalign(void **p, size_t alignment, size_t n)
{
    void *q = fails(ALLOC, ENOMEM) ? NULL : __libc_memalign(alignment, n);
    if (q)
        *p = q;
    return q ? 0 : ENOMEM;
}

void free(void *p)
{
    if (chosen == HEAP)
        heap_free(p);
    else
        __libc_free(p);
}

void *mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset)
{
    if (fails(MAP, ENOMEM))
        return MAP_FAILED;
    return (void *)syscall(SYS_mmap, at, n, protection, flags, fd, offset);
}

/* ---- Files --------------------------------------------------------------------------------------------- */

static bool unflushed[1024];

ssize_t write(int fd, const void *data, size_t n)
{
    if (chosen == FLUSH)
        unflushed[fd] = true;
    return fails(WRITE, ENOSPC) ? -1 : REAL(write)(fd, data, n);
}

int fsync(int fd)
{
    unflushed[fd] = false;
    return fails(SYNC, EIO) ? -1 : REAL(fsync)(fd);
}

int close(int fd)
{
    if (fd >= 0 && unflushed[fd])
        abort();
    const bool bad = fails(CLOSE, EIO);
    const int status = REAL(close)(fd); /* what close(2) does even when it fails */
    if (bad)
        errno = EIO;
    return bad ? -1 : status;
}

int ftruncate(int fd, off_t n)
{
    return fails(WRITE, EIO) ? -1 : REAL(ftruncate)(fd, n);
}

int rename(const char *from, const char *to)
{
    return fails(RENAME, EIO) ? -1 : REAL(rename)(from, to);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
    return fails(RENAME, EIO) ? -1 : REAL(renameat)(from_dir, from, to_dir, to);
}

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags)
{
    return fails(RENAME, EIO) ? -1 : REAL(linkat)(from_dir, from, to_dir, to, flags);
}

int mkdirat(int dir, const char *name, mode_t mode)
{
    return fails(OPEN, ENOSPC) ? -1 : REAL(mkdirat)(dir, name, mode);
}

int mkdir(const char *name, mode_t mode)
{
    return fails(OPEN, ENOSPC) ? -1 : REAL(mkdir)(name, mode);
}

static int open_with(int dir, const char *name, int flags, mode_t mode)
{
    if (flags & (O_WRONLY | O_RDWR | O_CREAT) && fails(OPEN, ENOSPC))
        return -1;
    return (int)syscall(SYS_openat, dir, name, flags, mode);
}

static mode_t mode_of(int flags, va_list args)
{
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(args, mode_t) : 0;
}

int open(const char *name, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    const mode_t mode = mode_of(flags, args);
    va_end(args);
    return open_with(AT_FDCWD, name, flags, mode);
}

int openat(int dir, const char *name, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    const mode_t mode = mode_of(flags, args);
    va_end(args);
    return open_with(dir, name, flags, mode);
}
