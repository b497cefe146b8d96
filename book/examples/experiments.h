/* Tables of data/experiments, and what a few seeds can show: for the program and the figure of chapter 18. */
#ifndef EXPERIMENTS_H
#define EXPERIMENTS_H

#include <string.h>

#include "example.h"

enum { MOST = 128 }; /* rows of a table, columns of a row, and letters of a name */

typedef struct table {
    char column[MOST][MOST], arm[MOST][MOST];
    double value[MOST][MOST];
    int columns, rows;
} table;

static inline void read_table(const char *path, table *t)
{
    static char line[1 << 14];
    FILE *f = fopen(path, "r");
    *t = (table){.rows = 0};
    if (!f) {
        fprintf(stderr, "%s: expected a table to read, found none\n", path);
        exit(1);
    }
    for (int header = 1; t->rows < MOST && fgets(line, sizeof line, f); header = 0) {
        int c = 0;
        for (char *field = line, *end; field && c < MOST && *field != '"';
             field = end, c++) { /* the last is a command */
            end = strpbrk(field, ",\n");
            if (end)
                *end++ = 0;
            if (header)
                snprintf(t->column[c], MOST, "%.*s", MOST - 1, field);
            else if (c == 0)
                snprintf(t->arm[t->rows], MOST, "%.*s", MOST - 1, field);
            if (!header)
                t->value[t->rows][c] = strtod(field, NULL);
        }
        if (header)
            t->columns = c;
        else
            t->rows++;
    }
    if (t->rows == MOST) {
        fprintf(stderr, "%s: expected fewer than %d rows, found more\n", path, MOST);
        exit(1);
    }
    fclose(f);
}

static inline int column_of(const table *t, const char *name)
{
    for (int c = 0; c < t->columns; c++)
        if (strcmp(t->column[c], name) == 0)
            return c;
    fprintf(stderr, "%s: no such column\n", name);
    exit(1);
}

/* The first row of its arm? */
static inline int is_first(const table *t, int row)
{
    for (int r = 0; r < row; r++)
        if (strcmp(t->arm[r], t->arm[row]) == 0)
            return 0;
    return 1;
}

/* ---- Seeds ------------------------------------------------------------------------------------------- */

typedef struct summary {
    int n;
    double mean, low, high, squares; /* squares: of the deviations from the mean, summed */
} summary;

static inline summary sum_up(const table *t, const char *arm, const char *column)
{
    const int c = column_of(t, column);
    summary s = {0, 0, INFINITY, -INFINITY, 0};
    for (int r = 0; r < t->rows; r++)
        if (strcmp(t->arm[r], arm) == 0) {
            const double x = t->value[r][c], off = x - s.mean;
            s.mean += off / ++s.n;
            s.squares += off * (x - s.mean); /* before and after x moved the mean: Welford's sum */
            s.low = fmin(s.low, x), s.high = fmax(s.high, x);
        }
    return s;
}

/* [noise] */
/* The deviation of one seed, from all arms together: each has few seeds, all have many. */
static inline double seed_deviation(const table *t, const char *column)
{
    double squares = 0;
    int freedoms = 0;
    for (int r = 0; r < t->rows; r++)
        if (is_first(t, r)) {
            const summary s = sum_up(t, t->arm[r], column);
            squares += s.squares, freedoms += s.n - 1; /* one of them went into the mean */
        }
    return sqrt(squares / freedoms);
}

/* A difference of two means of n seeds scatters by sqrt(2 / n) of that. Twice as much is seldom chance. */
static inline double visible(double deviation, int n)
{
    return 2 * deviation * sqrt(2.0 / n);
}
/* [noise] */

/* Student's t: in 95 of 100 cases a mean is off by less than t of its own deviations. */
static inline double student(int freedoms)
{
    static const double t[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262};
    const int last = sizeof t / sizeof *t;
    return t[(freedoms < last ? freedoms : last) - 1];
}

/* [pairs] */
/* Differences of two arms with the same seed; the mean of them, and half of its 95 % interval. */
typedef struct pairs {
    int n;
    double difference[MOST], mean, half;
} pairs;

static inline pairs pair_up(const table *t, const char *arm, const char *base, const char *column)
{
    const int c = column_of(t, column), seed = column_of(t, "seed");
    pairs p = {.n = 0};
    for (int a = 0; a < t->rows; a++)
        for (int b = 0; b < t->rows; b++)
            if (strcmp(t->arm[a], arm) == 0 && strcmp(t->arm[b], base) == 0 &&
                t->value[a][seed] == t->value[b][seed])
                p.difference[p.n++] = t->value[a][c] - t->value[b][c];
    for (int i = 0; i < p.n; i++)
        p.mean += p.difference[i] / p.n;
    for (int i = 0; i < p.n; i++)
        p.half += (p.difference[i] - p.mean) * (p.difference[i] - p.mean);
    p.half = p.n < 2 ? INFINITY : student(p.n - 1) * sqrt(p.half / (p.n - 1) / p.n);
    return p;
}
/* [pairs] */

#endif
