/**
 * @file answer_faults.c
 * @brief In the answer's process: how it notes what stops it, with the callers. answer_verdict.c says it in words.
 */
#define _GNU_SOURCE
#include "answer_parts.h"

#include <execinfo.h>
#include <signal.h>
#include <unistd.h>

void answer_complain(const char *text)
{
    if (!answer_mail->text[0])
        snprintf(answer_mail->text, sizeof answer_mail->text, "%s", text);
}

/* The frames from `pc` on, of the callers a place within the call. */
static void remember_frames(const void *pc)
{
    void *all[64];
    const int n = backtrace(all, 64);
    int i = 0;
    while (i < n && all[i] != pc)
        i++;
    answer_mail->frame[answer_mail->frames++] = (void *)((uintptr_t)pc);
    for (i = i < n ? i + 1 : 0; i < n && answer_mail->frames < ANSWER_FRAMES; i++)
        answer_mail->frame[answer_mail->frames++] = (void *)((uintptr_t)all[i] - 1);
}

_Noreturn void answer_stop(const void *pc, const char *text)
{
    answer_complain(text);
    answer_mail->fate = STOPPED;
    remember_frames((const void *)((uintptr_t)pc - 1));
    _exit(1);
}

void answer_abort(void)
{
    answer_stop(__builtin_return_address(0), "it gave up: abort()");
}

void answer_assert(const char *what, const char *file, unsigned line, const char *function)
{
    char text[ANSWER_TEXT];
    (void)file, (void)line, (void)function;
    snprintf(text, sizeof text, "an assertion does not hold: %s", what);
    answer_stop(__builtin_return_address(0), text);
}

/* What the sanitizers call when they find something. */
const char *__asan_get_report_description(void) __attribute__((weak));
void *__asan_get_report_pc(void) __attribute__((weak));
int __asan_get_report_access_type(void) __attribute__((weak));
size_t __asan_get_report_access_size(void) __attribute__((weak));
void __asan_on_error(void);
void __asan_on_error(void)
{
    char text[ANSWER_TEXT];
    snprintf(text, sizeof text, "%s: a %s of %zu bytes", __asan_get_report_description(),
             __asan_get_report_access_type() ? "store" : "load", __asan_get_report_access_size());
    answer_stop((const void *)((uintptr_t)__asan_get_report_pc() + 1), text);
}
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0:handle_segv=0:handle_sigbus=0:handle_sigfpe=0:handle_sigill=0:handle_abort=0:"
           "detect_stack_use_after_return=0:allocator_may_return_null=1:use_sigaltstack=0";
}
void __ubsan_get_current_report_data(const char **kind, const char **message, const char **file,
                                     unsigned *line, unsigned *column, char **address) __attribute__((weak));
void __ubsan_on_report(void);
void __ubsan_on_report(void)
{
    const char *kind, *message, *file;
    unsigned line, column;
    char *address, text[ANSWER_TEXT];
    __ubsan_get_current_report_data(&kind, &message, &file, &line, &column, &address);
    snprintf(text, sizeof text, "undefined behaviour: %s", message);
    answer_stop(__builtin_return_address(0), text);
}

/* Asked at each second of processor time, from the limit on. */
static bool is_endless(void)
{
    static uint64_t before;
    static unsigned quiet;
    if (!answer_counted)
        return true;
    quiet = *answer_counted == before ? quiet + 1 : 0;
    before = *answer_counted;
    answer_mail->seconds++;
    return quiet == ANSWER_PATIENCE || answer_mail->seconds == ANSWER_MOST_SECONDS;
}

/* Where the judge has a sanitizer itself, that would look for the bounds of the stack before _exit(), in a file that
 * is closed here. */
__attribute__((no_sanitize_address)) static void on_signal(int number, siginfo_t *info, void *context)
{
    if (number == SIGXCPU && !is_endless())
        return;
    const ucontext_t *u = context;
    const void *pc = NULL;
#if defined __x86_64__
    pc = (const void *)(uintptr_t)u->uc_mcontext.gregs[REG_RIP];
#elif defined __aarch64__
    pc = (const void *)(uintptr_t)u->uc_mcontext.pc;
#endif
    answer_mail->fate = SIGNALLED;
    answer_mail->signal = number;
    answer_mail->code = info->si_code;
    answer_mail->address = info->si_addr;
    answer_mail->call = number == SIGSYS ? info->si_syscall : 0;
    remember_frames(pc);
    _exit(1);
}

void answer_catch_signals(void)
{
    static const int caught[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS, SIGXCPU, SIGXFSZ};
    static char stack[1 << 16];
    const stack_t other = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction a = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaltstack(&other, NULL); // the stack itself may be what overflowed
    for (size_t i = 0; i < sizeof caught / sizeof *caught; i++)
        sigaction(caught[i], &a, NULL);
}
