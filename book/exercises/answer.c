/**
 * @file answer.c
 * @brief The process in which a student's code runs: see answer.h.
 */
#define _GNU_SOURCE
#include "answer.h"

#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "exercise.h"

/* ---- Memory ---------------------------------------------------------------------------------------- */

#define UNWRITTEN 0xff
#define FENCE 0xa5 // in what is left of the pages of an array

typedef enum usage { HIDDEN, GIVEN, WANTED, SHARED } usage;

// All arrays, for the length of the program.
typedef struct region {
    struct region *next;
    usage use;
    const char *name, *how; // NULL: not the answer's business
    unsigned char *pages, *start;
    size_t page_bytes, bytes;
} region;
static region *regions;

static size_t page(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

static void *new_region(usage use, int64_t bytes, const char *name, const char *how)
{
    region *r = calloc(1, sizeof *r);
    const size_t n = bytes > 0 ? (size_t)bytes : 1, pages = (n + page() - 1) / page() * page();
    const int flags = (use == HIDDEN ? MAP_PRIVATE : MAP_SHARED) | MAP_ANONYMOUS;
    unsigned char *all = mmap(NULL, pages + 2 * page(), PROT_NONE, flags, -1, 0);
    if (!r || all == MAP_FAILED || mprotect(all + page(), pages, PROT_READ | PROT_WRITE) ||
        (use == HIDDEN && madvise(all, pages + 2 * page(), MADV_DONTFORK))) {
        fprintf(stderr, "exercise: out of memory\n");
        exit(2);
    }
    *r = (region){regions, use, name, how, all + page(), NULL, pages, n};
    r->start = r->pages + (use == HIDDEN ? 0 : (pages - n) / 16 * 16); // its end near the end of a page
    if (use == GIVEN || use == WANTED)
        memset(r->pages, FENCE, pages);
    if (use != SHARED)
        memset(r->start, UNWRITTEN, n);
    regions = r;
    return r->start;
}

void *answer_hidden(int64_t bytes, const char *name, const char *how)
{
    return new_region(HIDDEN, bytes, name, how);
}

void *answer_given(int64_t bytes, const char *name)
{
    return new_region(GIVEN, bytes, name, NULL);
}

void *answer_wanted(int64_t bytes, const char *name)
{
    return new_region(WANTED, bytes, name, NULL);
}

void *answer_shared(int64_t bytes)
{
    return new_region(SHARED, bytes, NULL, NULL);
}

static const region *region_of(const void *address)
{
    const unsigned char *a = address;
    for (const region *r = regions; r; r = r->next)
        if (a >= r->pages - page() && a < r->pages + r->page_bytes + page())
            return r;
    return NULL;
}

void answer_name(const void *start, const char *name, const char *how)
{
    for (region *r = regions; r; r = r->next)
        if (r->start == start)
            r->name = name, r->how = how;
}

bool answer_find(const void *address, answer_array *found)
{
    const region *r = region_of(address);
    if (!r || !r->name || r->use == HIDDEN)
        return false;
    *found = (answer_array){r->name, (const unsigned char *)address - r->start};
    return true;
}

/* Whether what lies around the arrays is as it was. */
static void check_fences(void)
{
    for (const region *r = regions; r; r = r->next)
        for (size_t i = 0; r->use == WANTED && i < r->page_bytes; i++) {
            const unsigned char *at = r->pages + i;
            if ((at < r->start || at >= r->start + r->bytes) && *at != FENCE) {
                exercise_true(false, "%s: something was written %lld bytes %s", r->name,
                              (long long)(at < r->start ? r->start - at : at - r->start - (ptrdiff_t)r->bytes),
                              at < r->start ? "before its start" : "behind its end");
                return;
            }
        }
}

/* ---- Letters between the two processes ------------------------------------------------------------- */

#define SLOTS 4096
#define SLOT 256 // bytes
#define TEXT 1024
#define FRAMES 24

typedef enum fate { RAN_ON, RETURNED, STOPPED, SIGNALLED } fate;

// What the child writes and the parent reads, beside the answer's arrays.
typedef struct letter {
    const void *data; // which cell it asks for
    int64_t row, column;
    fate fate;
    int signal, code, call;
    unsigned seconds; // of processor time, where progress was looked at
    const void *address;
    void *frame[FRAMES];
    int frames;
    char text[TEXT]; // a complaint
} letter;

static letter *mail;
static unsigned char *window; // the cells that the answer holds; only the parent can write here
static int to_parent[2], to_child[2];
static bool in_child, lost; // lost: no further answer is asked for
static int64_t hold = SLOTS, asked;
#define PATIENCE 10 // seconds of processor time without progress
#define MOST_SECONDS 120
static const volatile uint64_t *progress; // NULL: the whole call is to take no longer
static int64_t touched_pages; // by the last answer
static FILE *said; // what the answer prints

#define SOURCES 64
static answer_source source[SOURCES];
static int n_sources;

void answer_offer(const answer_source *s)
{
    int i = 0;
    while (i < n_sources && source[i].data != s->data)
        i++;
    if (i == SOURCES || s->bytes > SLOT) {
        fprintf(stderr, "exercise: too many sources\n");
        exit(2);
    }
    source[i] = *s;
    n_sources += i == n_sources;
}

bool answer_offered(const void *data)
{
    int i = 0;
    while (i < n_sources && source[i].data != data)
        i++;
    return i < n_sources;
}

bool answer_lost(void)
{
    return lost;
}

void answer_hold(int64_t cells)
{
    hold = cells;
}

void answer_progress(const uint64_t *count)
{
    progress = count;
}

/* The parent's side: hands out a cell, or says what is wrong with the request. */
static bool serve(void)
{
    const answer_source *s = source;
    while (s < source + n_sources && s->data != mail->data)
        s++;
    if (s == source + n_sources) {
        exercise_true(false, "the answer asks for rows of an array that it was not given");
        return false;
    }
    if (mail->row < 0 || mail->row >= s->rows || mail->column < 0 || mail->column >= s->columns) {
        char call[TEXT];
        const int n = snprintf(call, sizeof call, s->call, (long long)mail->row, (long long)mail->column);
        exercise_true(false, "%s: expected 0 to %lld%s%.0lld", n > 0 ? call : "", (long long)s->rows - 1,
                      s->columns > 1 ? ", and 0 to " : "", s->columns > 1 ? (long long)s->columns - 1 : 0);
        return false;
    }
    if (s->note)
        s->note(s->context, mail->row, mail->column);
    unsigned char *slot = window + asked % SLOTS * SLOT;
    if (asked >= hold)
        memset(window + (asked - hold) % SLOTS * SLOT, UNWRITTEN, SLOT);
    memset(slot, UNWRITTEN, SLOT);
    if (s->bytes)
        memcpy(slot, (const unsigned char *)s->data + (size_t)(mail->row * s->columns + mail->column) * s->bytes,
               s->bytes);
    asked++;
    return true;
}

const void *answer_ask(const void *data, int64_t at_row, int64_t column)
{
    char go = 'r';
    mail->data = data, mail->row = at_row, mail->column = column;
    if (write(to_parent[1], &go, 1) != 1 || read(to_child[0], &go, 1) != 1)
        _exit(1);
    return window + asked++ % SLOTS * SLOT;
}

bool answer_runs(void)
{
    return in_child;
}

void answer_complain(const char *text)
{
    if (!mail->text[0])
        snprintf(mail->text, sizeof mail->text, "%s", text);
}

/* ---- The line of the answer -------------------------------------------------------------------------- */

extern const char __executable_start;

/* Whether a file is an answer's: no header, and none of the judge's. */
static bool is_answer(const char *file)
{
    static const char *const judge[] = {"answer.c", "access.c", "exercise.c", "kernel.c", "check.c"};
    const size_t n = strlen(file);
    for (size_t i = 0; i < sizeof judge / sizeof *judge; i++)
        if (strcmp(file, judge[i]) == 0)
            return false;
    return strcmp(file + n - (n > 2 ? 2 : 0), ".c") == 0 || strcmp(file + n - (n > 3 ? 3 : 0), ".cu") == 0;
}

/* The innermost of these addresses that lies in a student's file, as "mine.c:7, in attend: ", or "". */
static void find_line(char *line, size_t size)
{
    char command[64 + FRAMES * 24], at[TEXT], function[TEXT];
    int n = snprintf(command, sizeof command, "addr2line -Cfie /proc/%d/exe", (int)getpid());
    line[0] = 0;
    for (int i = 0; i < mail->frames; i++)
        n += snprintf(command + n, sizeof command - (size_t)n, " %llx",
                      (unsigned long long)((uintptr_t)mail->frame[i] - (uintptr_t)&__executable_start));
    snprintf(command + n, sizeof command - (size_t)n, " 2>&1");
    FILE *in = popen(command, "r");
    while (in && !line[0] && fgets(function, sizeof function, in) && fgets(at, sizeof at, in)) {
        char *file = strrchr(at, '/');
        const char *name = strncmp(function, "(anonymous", 10) == 0 ? strstr(function, "::") + 2 : function;
        function[name - function + (ptrdiff_t)strcspn(name, "(\n")] = at[strcspn(at, " \n")] = 0;
        char *colon = file ? strchr(file, ':') : NULL;
        if (colon)
            *colon = 0;
        const bool own = colon && is_answer(file + 1);
        if (colon)
            *colon = ':';
        if (own)
            snprintf(line, size, "%.80s, in %.80s: ", file + 1, name);
    }
    if (in)
        pclose(in);
}

/* The frames from `pc` on, of the callers a place within the call. */
static void remember_frames(const void *pc)
{
    void *all[64];
    const int n = backtrace(all, 64);
    int i = 0;
    while (i < n && all[i] != pc)
        i++;
    mail->frame[mail->frames++] = (void *)((uintptr_t)pc);
    for (i = i < n ? i + 1 : 0; i < n && mail->frames < FRAMES; i++)
        mail->frame[mail->frames++] = (void *)((uintptr_t)all[i] - 1);
}

_Noreturn void answer_stop(const void *pc, const char *text)
{
    answer_complain(text);
    mail->fate = STOPPED;
    remember_frames((const void *)((uintptr_t)pc - 1));
    _exit(1);
}

void answer_abort(void)
{
    answer_stop(__builtin_return_address(0), "it gave up: abort()");
}

void answer_assert(const char *what, const char *file, unsigned line, const char *function)
{
    char text[TEXT];
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
    char text[TEXT];
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
    char *address, text[TEXT];
    __ubsan_get_current_report_data(&kind, &message, &file, &line, &column, &address);
    snprintf(text, sizeof text, "undefined behaviour: %s", message);
    answer_stop(__builtin_return_address(0), text);
}

/* Asked at each second of processor time, from the limit on. */
static bool is_endless(void)
{
    static uint64_t before;
    static unsigned quiet;
    if (!progress)
        return true;
    quiet = *progress == before ? quiet + 1 : 0;
    before = *progress;
    mail->seconds++;
    return quiet == PATIENCE || mail->seconds == MOST_SECONDS;
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
    mail->fate = SIGNALLED;
    mail->signal = number;
    mail->code = info->si_code;
    mail->address = info->si_addr;
    mail->call = number == SIGSYS ? info->si_syscall : 0;
    remember_frames(pc);
    _exit(1);
}

/* ---- The reference ------------------------------------------------------------------------------------- */

/* What the reference computes with, in the exercises in C: nobody calls it by its address either. */
extern char __start_reference __attribute__((weak)), __stop_reference __attribute__((weak));

static void close_reference(void)
{
    if (&__start_reference)
        mprotect(&__start_reference, (size_t)(&__stop_reference - &__start_reference) / page() * page(), PROT_NONE);
}

static bool is_reference(const void *address)
{
    return (uintptr_t)address - (uintptr_t)&__start_reference <
           (uintptr_t)&__stop_reference - (uintptr_t)&__start_reference;
}

/* ---- What a signal means ------------------------------------------------------------------------------ */

#define STACK (16u << 20) // bytes that belong to the stack, or would

static void describe_address(char *text, size_t size)
{
    const unsigned char *a = mail->address;
    const region *r = region_of(a);
    if (a >= window && a < window + SLOTS * SLOT)
        snprintf(text, size, "it writes to a row, which is only to be read");
    else if (is_reference(a))
        snprintf(text, size, "it calls the reference, or looks at it");
    else if (!r && (uintptr_t)&r - (uintptr_t)a < STACK)
        snprintf(text, size, "the stack is full: too deep a recursion, or too large an array?");
    else if (!r)
        snprintf(text, size, "address %p is %s", mail->address,
                 (uintptr_t)a < 65536 ? "a null pointer, or near one" : "nobody's memory");
    else if (r->use == HIDDEN && r->how)
        snprintf(text, size,
                 "an ordinary access to %s, which is not counted and reads nothing: write %s", r->name, r->how);
    else if (r->use == HIDDEN)
        snprintf(text, size, "it looks into the memory of the judge");
    else if (r->use == GIVEN && a >= r->start && a < r->start + r->bytes)
        snprintf(text, size, "it writes to %s, which is only to be read", r->name);
    else
        snprintf(text, size, "%s has %zu bytes, and this access is %lld bytes %s", r->name, r->bytes,
                 (long long)(a < r->start ? r->start - a : a - r->start),
                 a < r->start ? "before its start" : "after its start");
}

static void describe_signal(char *text, size_t size)
{
    char where[TEXT / 2] = "";
    switch (mail->signal) {
    case SIGSEGV:
    case SIGBUS:
        if (mail->code == SI_KERNEL)
            snprintf(where, sizeof where, "not an address");
        else
            describe_address(where, sizeof where);
        snprintf(text, size, "%s: %s", mail->signal == SIGSEGV ? "SIGSEGV (memory that it may not touch)" : "SIGBUS",
                 where);
        break;
    case SIGXCPU:
        if (progress && mail->seconds < MOST_SECONDS)
            snprintf(text, size, "no thread block has ended in %d seconds of processor time: an endless loop?", PATIENCE);
        else
            snprintf(text, size, "no result after %d seconds of processor time: an endless loop?",
                     progress ? MOST_SECONDS : PATIENCE);
        break;
    case SIGXFSZ:
        snprintf(text, size, "it prints without end");
        break;
    case SIGFPE:
        snprintf(text, size, "SIGFPE: an integer division by zero");
        break;
    case SIGILL: // where a kernel is compiled, bounds end so
        snprintf(text, size, "SIGILL: an index outside of its array");
        break;
    case SIGSYS:
        snprintf(text, size, "it calls the system (call number %d), but an answer only computes", mail->call);
        break;
    default:
        snprintf(text, size, "%s", strsignal(mail->signal));
    }
}

/* The end of a process that did not come back from the call. */
static void judge_end(int status)
{
    char line[TEXT] = "", text[TEXT];
    if (mail->frames)
        find_line(line, sizeof line);
    if (mail->fate == SIGNALLED) {
        describe_signal(text, sizeof text);
        exercise_true(false, "%s%s", line, text);
    } else if (mail->text[0])
        exercise_true(false, "%s%s", line, mail->text);
    else if (mail->fate == RETURNED)
        return;
    else if (WIFSIGNALED(status))
        exercise_true(false, "the answer was ended by a signal: %s", strsignal(WTERMSIG(status)));
    else
        exercise_true(false, "the answer ended the program (status %d) instead of returning from its function",
                      WEXITSTATUS(status));
    lost = lost || mail->fate != RETURNED;
}

/* Every line of it marked, so that nobody takes it for a verdict; not all of it, if that is much. */
static void show_what_it_said(void)
{
    static int all = 400; // pieces of the whole run
    char text[160];
    int left = all < 40 ? all : 40;
    const bool had_room = all > 0;
    rewind(said);
    for (bool begins = true; left > 0 && fgets(text, sizeof text, said); left--, all--) {
        if (begins && mail->fate == STOPPED && strncmp(text, "==", 2) == 0)
            continue; // a sanitizer's report, of which the verdict tells
        for (char *c = text; *c; c++)
            if ((unsigned char)*c < ' ' && *c != '\n' && *c != '\t')
                *c = '?';
        printf("%s%s", begins ? "  | " : "", text);
        begins = strchr(text, '\n');
        if (!begins && (feof(said) || left == 1))
            puts("");
    }
    if (left == 0 && had_room)
        puts(all > 0 ? "  | ..." : "  | ... and no more is shown of this run");
    rewind(said);
    if (ftruncate(fileno(said), 0))
        lost = true;
}

/* ---- The child ------------------------------------------------------------------------------------------ */

/* The system calls of somebody who only computes; all others end the answer. */
static void refuse_system_calls(void)
{
#define ALLOW(call) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##call, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define DENY(call)                                                                                             \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##call, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EACCES)
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
    const struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    // Where the system has no such filter, the names that an answer may use (admit.sh) are the fence.
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static void catch_signals(void)
{
    static const int caught[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS, SIGXCPU, SIGXFSZ};
    static char stack[1 << 16];
    const stack_t other = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction a = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaltstack(&other, NULL); // the stack itself may be what overflowed
    for (size_t i = 0; i < sizeof caught / sizeof *caught; i++)
        sigaction(caught[i], &a, NULL);
}

static void limit(unsigned what, rlim_t most, rlim_t hard)
{
    const struct rlimit r = {most, hard};
    setrlimit(what, &r);
}

static void become_the_answer(void)
{
    in_child = true;
    const int null = open("/dev/null", O_RDONLY), out = fileno(said);
    dup2(null, 0);
    dup2(out, 1);
    dup2(out, 2);
    for (int fd = 3; fd < 256; fd++)
        if (fd != to_parent[1] && fd != to_child[0])
            close(fd);
    setvbuf(stdout, NULL, _IONBF, 0);
    limit(RLIMIT_CPU, progress ? 1 : PATIENCE, (progress ? MOST_SECONDS : PATIENCE) + 5);
    limit(RLIMIT_FSIZE, 1 << 20, 1 << 20);
    limit(RLIMIT_CORE, 0, 0);
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0); // pages are counted
    for (const region *r = regions; r; r = r->next)
        if (r->use == GIVEN)
            mprotect(r->pages, r->page_bytes, PROT_READ);
    mprotect(window, SLOTS * SLOT, PROT_READ);
    close_reference();
    catch_signals();
    refuse_system_calls();
}

/* ---- Both ------------------------------------------------------------------------------------------------- */

static void must(bool ok, const char *what)
{
    if (ok)
        return;
    perror(what);
    exit(2);
}

/* Answers requests until the child has returned or gone. */
static void attend_to_child(pid_t child)
{
    char letter_kind;
    int status;
    struct rusage used = {0};
    while (read(to_parent[0], &letter_kind, 1) == 1 && letter_kind == 'r')
        if (!serve() || write(to_child[1], "g", 1) != 1) {
            kill(child, SIGKILL);
            lost = true;
            break;
        }
    while (wait4(child, &status, 0, &used) < 0 && errno == EINTR)
        continue;
    touched_pages = used.ru_minflt;
    show_what_it_said();
    if (!lost)
        judge_end(status);
    check_fences();
}

uint64_t answer_memory(void)
{
    return (uint64_t)touched_pages * page();
}

bool answer_begin(void)
{
    if (lost)
        return false;
    if (!mail) {
        void *frames[4];
        backtrace(frames, 4); // loads what it needs
        signal(SIGPIPE, SIG_IGN);
        mail = answer_shared(sizeof *mail);
        window = answer_shared(SLOTS * SLOT);
        memset(window, UNWRITTEN, SLOTS * SLOT); // all pages are there: one counts as much in the first answer as later
        must((said = tmpfile()) != NULL, "exercise");
    }
    memset(mail, 0, sizeof *mail);
    memset(window, UNWRITTEN, (size_t)(asked < SLOTS ? asked : SLOTS) * SLOT);
    asked = 0;
    must(pipe(to_parent) == 0 && pipe(to_child) == 0, "exercise: pipe");
    fflush(NULL);
    const pid_t child = fork();
    must(child >= 0, "exercise: fork");
    if (child == 0) {
        become_the_answer();
        return true;
    }
    close(to_parent[1]);
    close(to_child[0]);
    attend_to_child(child);
    close(to_parent[0]);
    close(to_child[1]);
    return false;
}

void answer_end(void)
{
    if (mail->fate == RAN_ON)
        mail->fate = RETURNED;
    _exit(0);
}
