/**
 * @file answer_child.c
 * @brief What the answer's process may do: compute. Files, other processes, the reference are closed to it.
 */
#define _GNU_SOURCE
#include "answer_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What the reference computes with, in the exercises in C: nobody calls it by its address either. */
extern char __start_reference __attribute__((weak)), __stop_reference __attribute__((weak));

static void close_reference(void)
{
    if (&__start_reference)
        mprotect(&__start_reference,
                 (size_t)(&__stop_reference - &__start_reference) / answer_page() * answer_page(), PROT_NONE);
}

bool answer_is_reference(const void *address)
{
    return (uintptr_t)address - (uintptr_t)&__start_reference <
           (uintptr_t)&__stop_reference - (uintptr_t)&__start_reference;
}

/* The system calls of somebody who only computes; all others end the answer. */
static void refuse_system_calls(void)
{
#define ALLOW(call)                                                                                          \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##call, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define DENY(call)                                                                                           \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##call, 0, 1),                                                   \
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EACCES)
    /* clang-format off */
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        ALLOW(read),           ALLOW(write),          ALLOW(exit_group),    ALLOW(exit),
        ALLOW(brk),            ALLOW(mmap),           ALLOW(munmap),        ALLOW(mremap),
        ALLOW(mprotect),       ALLOW(madvise),        ALLOW(futex),         ALLOW(rt_sigreturn),
        ALLOW(rt_sigprocmask), ALLOW(sigaltstack),    ALLOW(clock_gettime), ALLOW(getrandom),
        ALLOW(sched_yield),    ALLOW(gettid),         ALLOW(getpid),        ALLOW(fstat),
        ALLOW(lseek),          ALLOW(ioctl),          ALLOW(sched_getaffinity),
#ifdef SYS_newfstatat
        ALLOW(newfstatat),
#endif
#ifdef SYS_open // a sanitizer looks for the program's name before it reports
        DENY(open),            DENY(readlink),
#endif
        DENY(readlinkat),      DENY(openat),
#ifdef SANITIZED // the judge itself: to see whether an object's type can be read, UBSan writes it to a pipe
        ALLOW(pipe2),          ALLOW(close),
#endif
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP)};
    /* clang-format on */
    const struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    // Where the system has no such filter, the names that an answer may use (admit.sh) are the fence.
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static void limit(unsigned what, rlim_t most, rlim_t hard)
{
    const struct rlimit r = {most, hard};
    setrlimit(what, &r);
}

void answer_confine(void)
{
    answer_in_child = true;
    const int null = open("/dev/null", O_RDONLY), out = fileno(answer_said);
    dup2(null, 0);
    dup2(out, 1);
    dup2(out, 2);
    for (int fd = 3; fd < 256; fd++)
        if (fd != answer_to_parent[1] && fd != answer_to_child[0])
            close(fd);
    setvbuf(stdout, NULL, _IONBF, 0);
    limit(RLIMIT_CPU, answer_counted ? 1 : ANSWER_PATIENCE,
          (answer_counted ? ANSWER_MOST_SECONDS : ANSWER_PATIENCE) + 5);
    limit(RLIMIT_FSIZE, 1 << 20, 1 << 20);
    limit(RLIMIT_CORE, 0, 0);
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0); // pages are counted
    answer_protect_given();
    answer_protect_cells();
    close_reference();
    answer_catch_signals();
    refuse_system_calls();
}
