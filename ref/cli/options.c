/* Command lines: a table of options says what a subcommand takes; this file reads argv by it, refuses
 * everything else in one line, and prints the same table as help. */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

int cli_fail(const char *command, const char *format, ...)
{
    char line[1 << 14]; /* two file names fit, however long */
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    io_make_printable(line); /* file names are anybody's: whatever they hold, the message stays one line */
    cli_progress_end();
    fprintf(stderr, "msa%s%s: %s\n", command ? " " : "", command ? command : "", line);
    return 2;
}

void cli_append(char *to, size_t size, const char *format, ...)
{
    const size_t used = strlen(to);
    va_list args;
    va_start(args, format);
    vsnprintf(to + used, size - used, format, args);
    va_end(args);
}

static const cli_option *find(const cli_option *options, const char *name)
{
    for (const cli_option *o = options; o->name; o++)
        if (strcmp(o->name, name) == 0)
            return o;
    return NULL;
}

static int read_int(const char *command, const cli_option *o, const char *text)
{
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (end == text || *end || errno || (double)v < o->min || (double)v > o->max)
        return cli_fail(command, "%s: expected an integer from %.0f to %.0f, found '%s'", o->name, o->min,
                        o->max, text);
    *(int64_t *)o->target = v;
    return 0;
}

static int read_real(const char *command, const cli_option *o, const char *text)
{
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end || !(v >= o->min && v <= o->max))
        return cli_fail(command, "%s: expected a number from %g to %g, found '%s'", o->name, o->min, o->max,
                        text);
    *(double *)o->target = v;
    return 0;
}

static int append(const char *command, const char *what, cli_list *list, const char *text)
{
    if (list->n == CLI_MAX_LIST)
        return cli_fail(command, "%s: expected at most %d, found more", what, CLI_MAX_LIST);
    list->item[list->n++] = text;
    return 0;
}

static int read_value(const char *command, const cli_option *o, const char *text)
{
    switch (o->kind) {
    case CLI_INT:
        return read_int(command, o, text);
    case CLI_REAL:
        return read_real(command, o, text);
    case CLI_LIST:
        return append(command, o->name, o->target, text);
    default:
        *(const char **)o->target = text;
        return 0;
    }
}

static void print_default(const cli_option *o)
{
    int64_t i;
    double r;
    switch (o->kind) {
    case CLI_INT:
        i = *(const int64_t *)o->target;
        if ((double)i >= o->min && (double)i <= o->max)
            printf(" (default %lld)", (long long)i);
        break;
    case CLI_REAL:
        r = *(const double *)o->target;
        if (r >= o->min && r <= o->max)
            printf(" (default %g)", r);
        break;
    case CLI_TEXT:
        if (*(const char *const *)o->target)
            printf(" (default %s)", *(const char *const *)o->target);
        break;
    case CLI_NEEDED:
        printf(" (needed)");
        break;
    case CLI_LIST:
        printf(" (repeatable)");
        break;
    case CLI_FLAG:
        break;
    }
}

static const char *summary_of(const char *command)
{
#define COMMAND(name, summary)                                                                               \
    if (strcmp(command, #name) == 0)                                                                         \
        return summary;
#include "commands.def"
    return "";
}

static void print_help(const char *command, const cli_option *options, bool words)
{
    printf("msa %s: %s\n\nusage: msa %s%s%s\n", command, summary_of(command), command,
           words ? " [NAME...]" : "", options->name ? " [OPTION...]" : "");
    for (const cli_option *o = options; o->name; o++) {
        int metavariable = o->kind == CLI_FLAG ? 0 : (int)strcspn(o->help, " ");
        char left[64];
        snprintf(left, sizeof left, "%s %.*s", o->name, metavariable, o->help);
        printf("  %-25s %s", left, o->help + metavariable + strspn(o->help + metavariable, " "));
        print_default(o);
        printf("\n");
    }
}

static int check_needed(const char *command, const cli_option *options, uint64_t seen)
{
    for (const cli_option *o = options; o->name; o++)
        if (o->kind == CLI_NEEDED && !(seen >> (o - options) & 1))
            return cli_fail(command, "%s: expected this option, found none (msa help %s)", o->name, command);
    return 0;
}

/* Reads option o, which stands at argv[*a], and its value behind it. */
static int take_option(int argc, char **argv, int *a, const cli_option *options, const cli_option *o)
{
    const char *next = *a + 1 < argc ? argv[*a + 1] : NULL;
    if (o->kind == CLI_FLAG) {
        *(bool *)o->target = true;
        return 0;
    }
    if (!next || find(options, next))
        return cli_fail(argv[0], "%s: expected a value (%.*s), found %s", o->name, (int)strcspn(o->help, " "),
                        o->help, next ? next : "the end");
    ++*a;
    return read_value(argv[0], o, next);
}

int cli_parse(int argc, char **argv, const cli_option *options, cli_list *words)
{
    const char *command = argv[0];
    uint64_t seen = 0; /* a bit for each option */
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        const cli_option *o = find(options, word);
        if (strcmp(word, "--help") == 0) {
            print_help(command, options, words != NULL);
            return -1;
        }
        if (!o && (word[0] == '-' || !words))
            return cli_fail(command, "expected an option that 'msa help %s' lists, found '%s'", command,
                            word);
        if (o && o->kind != CLI_LIST && seen >> (o - options) & 1)
            return cli_fail(command, "%s: expected once, found again", o->name);
        int bad = o ? take_option(argc, argv, &i, options, o) : append(command, "names", words, word);
        if (bad)
            return bad;
        if (o)
            seen |= UINT64_C(1) << (o - options);
    }
    return check_needed(command, options, seen);
}

int cli_check_alone(int argc, char **argv, const cli_option *options, const char *flag, const char *also)
{
    for (int i = 1; i < argc; i++)
        if (find(options, argv[i]) && strcmp(argv[i], flag) != 0 && (!also || strcmp(argv[i], also) != 0))
            return cli_fail(argv[0], "%s: expected no %s with it", flag, argv[i]);
    return 0;
}
