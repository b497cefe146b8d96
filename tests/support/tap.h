/**
 * @file tap.h
 * @brief Results in the Test Anything Protocol: one line a check, the plan at the end.
 *
 * A program that dies early prints no plan, so that run.sh counts it as failed.
 */
#ifndef MSA_TAP_H
#define MSA_TAP_H

#include <stdbool.h>

/** Whether nothing may be left out: FULL is set in the environment. Without, `make test` repeats no truth that
 *  another shape, order or kernel tells as well. */
bool tap_full(void);

/** One check: "ok 7 - name" or "not ok 7 - name". The name is formatted as by printf; a line break or
 *  '#' in it is replaced, since TAP gives both a meaning. */
__attribute__((format(printf, 2, 3))) void tap(bool ok, const char *fmt, ...);

/** A check that this machine cannot run, and why: "ok 7 - name # SKIP why". */
void tap_skip(const char *name, const char *why);

/** A remark under the last result: "# ...". */
__attribute__((format(printf, 1, 2))) void tap_note(const char *fmt, ...);

/** Prints the plan "1..N". Returns the exit status: 1 if a check failed or there was none. */
int tap_done(void);

#endif
