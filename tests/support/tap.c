/**
 * @file tap.c
 * @brief Test Anything Protocol output: the counters behind tap.h.
 */
#include "tap.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static int n_checks, n_failed;

static void print_line(const char *fmt, va_list args)
{
    char text[1024];
    vsnprintf(text, sizeof text, fmt, args);
    for (char *c = text; *c; c++) {
        if (*c == '\n' || *c == '\r')
            *c = ' ';
        if (*c == '#')
            *c = '.';
    }
    printf("%s\n", text);
    fflush(stdout); // a crash in the next check must not swallow this line
}

void tap(bool ok, const char *fmt, ...)
{
    printf("%s %d - ", ok ? "ok" : "not ok", ++n_checks);
    n_failed += !ok;
    va_list args;
    va_start(args, fmt);
    print_line(fmt, args);
    va_end(args);
}

bool tap_full(void)
{
    const char *full = getenv("FULL");
    return full && *full;
}

void tap_skip(const char *name, const char *why)
{
    printf("ok %d - %s # SKIP %s\n", ++n_checks, name, why);
    fflush(stdout);
}

void tap_note(const char *fmt, ...)
{
    printf("# ");
    va_list args;
    va_start(args, fmt);
    print_line(fmt, args);
    va_end(args);
}

int tap_done(void)
{
    printf("1..%d\n", n_checks);
    if (n_failed)
        tap_note("%d of %d failed", n_failed, n_checks);
    return n_failed || !n_checks;
}
