/* A progress bar on stderr: for people only, so that a pipe or a log never sees it. */
#include <stdio.h>
#include <unistd.h>

#include "../bench/timing.h"
#include "cli.h"

#define REDRAW_SECONDS 0.1
#define BAR_WIDTH 24

/* One bar at a time is on the terminal, so one record of it is enough. */
static struct {
    double started, drawn;
    bool open;
} bar;

static void print_time(const char *label, double seconds)
{
    long s = (long)(seconds + 0.5);
    if (s >= 3600)
        fprintf(stderr, " %s %ldh%02ldm", label, s / 3600, s / 60 % 60);
    else
        fprintf(stderr, " %s %ldm%02lds", label, s / 60, s % 60);
}

void cli_progress(const char *what, int64_t done, int64_t total, const char *note)
{
    if (!isatty(STDERR_FILENO))
        return;
    double t = timing_now();
    if (!bar.open)
        bar.started = t;
    else if (t - bar.drawn < REDRAW_SECONDS)
        return;
    bar.open = true;
    bar.drawn = t;
    double share = total > 0 ? (double)done / (double)total : 0;
    fprintf(stderr, "\r\033[K%s [", what);
    for (int i = 0; i < BAR_WIDTH; i++)
        fputc(i < (int)(share * BAR_WIDTH) ? '#' : '.', stderr);
    fprintf(stderr, "] %3.0f%%", 100 * share);
    print_time("at", t - bar.started);
    if (share > 0)
        print_time("left", (t - bar.started) * (1 - share) / share);
    fprintf(stderr, " %s", note ? note : "");
    fflush(stderr);
}

void cli_progress_end(void)
{
    if (bar.open)
        fputs("\r\033[K", stderr);
    bar.open = false;
}
