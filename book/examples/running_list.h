/* How often a running list of the best is touched: chapter 13's program and an answer share this. */
#ifndef EXAMPLE_RUNNING_LIST_H
#define EXAMPLE_RUNNING_LIST_H

#include <math.h>

enum {
    ENTRIES = 15,
    LANES = 32,
    BUFFER = 16
}; /* 16 blocks less the local one; rows of a warp and candidates, at most */

/* A row's best scores so far, in no order, and the candidates that wait for the next insertion. */
typedef struct row_list {
    float best[ENTRIES], worst, buffer[BUFFER];
    int n;
} row_list;

static inline void flush(row_list *row)
{
    for (int c = 0; c < row->n; c++) {
        int at = 0; /* of the worst, which the candidate may replace */
        for (int a = 1; a < ENTRIES; a++)
            at = row->best[a] < row->best[at] ? a : at;
        if (row->buffer[c] > row->best[at])
            row->best[at] = row->buffer[c];
    }
    row->worst = row->best[0];
    for (int a = 1; a < ENTRIES; a++)
        row->worst = fminf(row->worst, row->best[a]);
    row->n = 0;
}

/* Candidates of a row and insertions of a warp, on average. */
typedef struct list_touches {
    double candidates, insertions;
} list_touches;

/* Rows of so many blocks, `lanes` rows a warp. A warp inserts as soon as one of its rows has `buffer` candidates. */
static inline list_touches touch_lists(const float *score, int warps, int blocks, int lanes, int buffer)
{
    long candidates = 0, insertions = 0;
    for (int warp = 0; warp < warps; warp++) {
        row_list row[LANES];
        for (int l = 0; l < lanes; l++) {
            row[l] = (row_list){.worst = -INFINITY};
            for (int a = 0; a < ENTRIES; a++)
                row[l].best[a] = -INFINITY;
        }
        for (int b = 0; b < blocks; b++) {
            int most = 0;
            for (int l = 0; l < lanes; l++) {
                const float x = score[(long)(warp * lanes + l) * blocks + b];
                if (x > row[l].worst) {
                    row[l].buffer[row[l].n++] = x;
                    candidates++;
                }
                most = row[l].n > most ? row[l].n : most;
            }
            if (most < buffer && !(b + 1 == blocks && most))
                continue;
            insertions += most;
            for (int l = 0; l < lanes; l++)
                flush(&row[l]);
        }
    }
    return (list_touches){(double)candidates / (warps * lanes), (double)insertions / warps};
}

#endif
