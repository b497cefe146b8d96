/**
 * @file answer_verdict.c
 * @brief What became of an answer, in words: the line that it stopped at, and why; what it printed.
 */
#define _GNU_SOURCE
#include "answer_parts.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- The line of the answer -------------------------------------------------------------------------- */

extern const char __executable_start;

/* Whether a file is an answer's: no header, and none of the judge's. */
static bool is_answer(const char *file)
{
    static const char *const judge[] = {"answer", "access.", "exercise.", "kernel", "check."};
    const size_t n = strlen(file);
    for (size_t i = 0; i < sizeof judge / sizeof *judge; i++)
        if (strncmp(file, judge[i], strlen(judge[i])) == 0)
            return false;
    return strcmp(file + n - (n > 2 ? 2 : 0), ".c") == 0 || strcmp(file + n - (n > 3 ? 3 : 0), ".cu") == 0;
}

/* The innermost of these addresses that lies in a student's file, as "mine.c:7, in attend: ", or "". */
static void find_line(char *line, size_t size)
{
    char command[64 + ANSWER_FRAMES * 24], at[ANSWER_TEXT], function[ANSWER_TEXT];
    int n = snprintf(command, sizeof command, "addr2line -Cfie /proc/%d/exe", (int)getpid());
    line[0] = 0;
    for (int i = 0; i < answer_mail->frames; i++)
        n +=
            snprintf(command + n, sizeof command - (size_t)n, " %llx",
                     (unsigned long long)((uintptr_t)answer_mail->frame[i] - (uintptr_t)&__executable_start));
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

/* ---- What a signal means ------------------------------------------------------------------------------ */

#define STACK (16u << 20) // bytes that belong to the stack, or would

static void describe_address(char *text, size_t size)
{
    const unsigned char *a = answer_mail->address;
    const answer_region *r = answer_region_of(a);
    if (answer_is_cell(a))
        snprintf(text, size, "it writes to a row, which is only to be read");
    else if (answer_is_reference(a))
        snprintf(text, size, "it calls the reference, or looks at it");
    else if (!r && (uintptr_t)&r - (uintptr_t)a < STACK)
        snprintf(text, size, "the stack is full: too deep a recursion, or too large an array?");
    else if (!r)
        snprintf(text, size, "address %p is %s", answer_mail->address,
                 (uintptr_t)a < 65536 ? "a null pointer, or near one" : "nobody's memory");
    else if (r->use == HIDDEN && r->how)
        snprintf(text, size, "an ordinary access to %s, which is not counted and reads nothing: write %s",
                 r->name, r->how);
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
    char where[ANSWER_TEXT / 2] = "";
    switch (answer_mail->signal) {
    case SIGSEGV:
    case SIGBUS:
        if (answer_mail->code == SI_KERNEL)
            snprintf(where, sizeof where, "not an address");
        else
            describe_address(where, sizeof where);
        snprintf(text, size, "%s: %s",
                 answer_mail->signal == SIGSEGV ? "SIGSEGV (memory that it may not touch)" : "SIGBUS", where);
        break;
    case SIGXCPU:
        if (answer_counted && answer_mail->seconds < ANSWER_MOST_SECONDS)
            snprintf(text, size,
                     "no CTA has ended in %d seconds of processor time: an endless loop?",
                     ANSWER_PATIENCE);
        else
            snprintf(text, size, "no result after %d seconds of processor time: an endless loop?",
                     answer_counted ? ANSWER_MOST_SECONDS : ANSWER_PATIENCE);
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
        snprintf(text, size, "it calls the system (call number %d), but an answer only computes",
                 answer_mail->call);
        break;
    default:
        snprintf(text, size, "signal %d (%s)", answer_mail->signal, strsignal(answer_mail->signal));
    }
}

void answer_judge_end(int status)
{
    char line[ANSWER_TEXT] = "", text[ANSWER_TEXT];
    if (answer_mail->frames)
        find_line(line, sizeof line);
    if (answer_mail->fate == SIGNALLED) {
        describe_signal(text, sizeof text);
        exercise_true(false, "%s%s", line, text);
    } else if (answer_mail->text[0])
        exercise_true(false, "%s%s", line, answer_mail->text);
    else if (answer_mail->fate == RETURNED)
        return;
    else if (WIFSIGNALED(status))
        exercise_true(false, "the answer was ended by signal %d (%s)", WTERMSIG(status),
                      strsignal(WTERMSIG(status)));
    else
        exercise_true(false,
                      "the answer ended the program (status %d) instead of returning from its function",
                      WEXITSTATUS(status));
    answer_is_lost = answer_is_lost || answer_mail->fate != RETURNED;
}

/* Every line of it marked, so that nobody takes it for a verdict; not all of it, if that is much. */
void answer_show(void)
{
    static int all = 400; // pieces of the whole run
    char text[160];
    int left = all < 40 ? all : 40;
    const bool had_room = all > 0;
    rewind(answer_said);
    for (bool begins = true; left > 0 && fgets(text, sizeof text, answer_said); left--, all--) {
        if (begins && answer_mail->fate == STOPPED && strncmp(text, "==", 2) == 0)
            continue; // a sanitizer's report, of which the verdict tells
        for (char *c = text; *c; c++)
            if ((unsigned char)*c < ' ' && *c != '\n' && *c != '\t')
                *c = '?';
        printf("%s%s", begins ? "  | " : "", text);
        begins = strchr(text, '\n');
        if (!begins && (feof(answer_said) || left == 1))
            puts("");
    }
    if (left == 0 && had_room)
        puts(all > 0 ? "  | ..." : "  | ... and no more is shown of this run");
    rewind(answer_said);
    if (ftruncate(fileno(answer_said), 0))
        answer_is_lost = true;
}
