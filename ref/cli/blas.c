/* OpenBLAS for the program, loaded when the first product needs it.
 *
 * Linked the usual way it starts its threads before main does, and they and every caller take a buffer of 128
 * MB, for which it asks again and again for ever where there is none. So the program brings the three
 * functions that it calls, which load the library without threads of its own and have it take the buffers of
 * all of our threads at once, each after a question whether there is room; a machine without it gets one
 * line.
 *
 * It, and the Fortran library that it brings, use small blocks without a look at whether they got them. There
 * is no asking for them before, since where they are taken is theirs to know; so a fault in there is turned
 * into a line, too. */
#ifdef HAVE_OPENBLAS
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS, sigaltstack */
#include <cblas.h>
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../fast/fast.h"
#include "cli.h"

#define ROOM ((size_t)256 << 20) /* twice a buffer */
#define MOST_THREADS 1024

typedef void sgemm_fn(enum CBLAS_ORDER, enum CBLAS_TRANSPOSE, enum CBLAS_TRANSPOSE, blasint, blasint, blasint,
                      float, const float *, blasint, const float *, blasint, float, float *, blasint);
typedef void *alloc_fn(int);
typedef void free_fn(void *);

static sgemm_fn *sgemm;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* Of threads that find the same, one says so. */
static void give_up(const char *expected, const char *found)
{
    static atomic_flag said = ATOMIC_FLAG_INIT;
    while (atomic_flag_test_and_set(&said))
        pause();
    cli_fail(NULL, "OpenBLAS: expected %s, found %s", expected, found);
    io_abandon();
    _exit(2); /* other threads are in the middle of their work */
}

/* Whether this thread is in there. */
static _Thread_local volatile sig_atomic_t inside;
static struct sigaction theirs;

/* Anybody else's fault comes again, without us. A signal that was sent does not come again by itself. */
static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)context;
    const bool sent = info->si_code <= 0;
    if (inside && !sent)
        give_up("memory for its own use", "none (a segmentation fault in it)");
    sigaction(number, &theirs, NULL);
    if (sent)
        raise(number);
}

/* A call of itself without an end, which is how the Fortran library reports that it has no memory, leaves no
 * room on the stack that it ran on. A sanitizer has given the thread another one already. */
static void watch_faults(void)
{
    static char stack[1 << 16];
    stack_t now;
    if (sigaltstack(NULL, &now) == 0 && now.ss_flags & SS_DISABLE)
        sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = sizeof stack}, NULL);
    sigaction(SIGSEGV, &(struct sigaction){.sa_sigaction = on_fault, .sa_flags = SA_ONSTACK | SA_SIGINFO},
              &theirs);
}

static bool there_is_room(void)
{
    void *p = mmap(NULL, ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p != MAP_FAILED && munmap(p, ROOM) == 0;
}

/* ISO C has no conversion from void * to a function; POSIX says that their bytes are the same. */
static void find(void *library, const char *name, void *function)
{
    *(void **)function = dlsym(library, name);
}

static void take_buffers(alloc_fn *take, free_fn *give)
{
    void *buffer[MOST_THREADS];
    const double before = io_memory_left();
    const int most = fast_max_threads() < MOST_THREADS ? fast_max_threads() : MOST_THREADS;
    for (int i = 0; i < most; i++) {
        if (!there_is_room())
            give_up("address space for a buffer of 128 MB a thread", "too little (ulimit -v)");
        buffer[i] = take(0);
    }
    for (int i = 0; i < most; i++)
        give(buffer[i]);
    io_memory_idle(before - io_memory_left());
}

static void load(void)
{
    static const char *const names[] = {"libopenblas.so.0", OPENBLAS_DIR "/libopenblas.so", "libopenblas.so"};
    void *library = NULL;
    alloc_fn *take;
    free_fn *give;
    watch_faults();
    if (!there_is_room())
        give_up("address space for a buffer of 128 MB a thread", "too little (ulimit -v)");
    setenv("OPENBLAS_NUM_THREADS", "1", 1); /* which it reads while it is loaded */
    for (size_t i = 0; i < sizeof names / sizeof *names && !library; i++)
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!library)
        give_up("to load libopenblas.so.0", dlerror());
    find(library, "cblas_sgemm", &sgemm);
    find(library, "blas_memory_alloc", &take);
    find(library, "blas_memory_free", &give);
    if (!sgemm)
        give_up("a function cblas_sgemm", "none");
    if (take && give)
        take_buffers(take, give);
}

void cblas_sgemm(const enum CBLAS_ORDER order, const enum CBLAS_TRANSPOSE trans_a,
                 const enum CBLAS_TRANSPOSE trans_b, const blasint m, const blasint n, const blasint k,
                 const float alpha, const float *a, const blasint lda, const float *b, const blasint ldb,
                 const float beta, float *c, const blasint ldc)
{
    inside = true;
    pthread_once(&once, load);
    sgemm(order, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    inside = false;
}

/* It has one thread, whatever is asked. */
void openblas_set_num_threads(int n)
{
    (void)n;
}

int openblas_get_num_threads(void)
{
    return 1;
}

int openblas_get_parallel(void)
{
    return OPENBLAS_SEQUENTIAL;
}
#endif
