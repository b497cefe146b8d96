/* What the files of the answer's process share: see answer.h. */
#ifndef MSA_EXERCISE_ANSWER_PARTS_H
#define MSA_EXERCISE_ANSWER_PARTS_H

#include <stdio.h>

#include "answer.h"
#include "exercise.h"

/* ---- Both processes (answer.c) ---------------------------------------------------------------------- */

#define ANSWER_TEXT 1024
#define ANSWER_FRAMES 24

typedef enum fate { RAN_ON, RETURNED, STOPPED, SIGNALLED } fate;

// What the child writes and the parent reads, beside the answer's arrays.
typedef struct letter {
    const void *data; // which cell it asks for
    int64_t row, column;
    fate fate;
    int signal, code, call;
    unsigned seconds; // of processor time, where progress was looked at
    const void *address;
    void *frame[ANSWER_FRAMES];
    int frames;
    char text[ANSWER_TEXT]; // a complaint
} letter;

extern letter *answer_mail;
extern int answer_to_parent[2], answer_to_child[2];
extern bool answer_in_child, answer_is_lost; // lost: no further answer is asked for
extern FILE *answer_said;                    // what the answer prints

#define ANSWER_PATIENCE 10 // seconds of processor time without progress
#define ANSWER_MOST_SECONDS 120
extern const volatile uint64_t *answer_counted; // NULL: the whole call is to take no longer

/* ---- Memory (answer_memory.c) ------------------------------------------------------------------------ */

#define ANSWER_UNWRITTEN 0xff

typedef enum usage { HIDDEN, GIVEN, WANTED, SHARED } usage;

typedef struct answer_region {
    struct answer_region *next;
    usage use;
    const char *name, *how; // NULL: not the answer's business
    unsigned char *pages, *start;
    size_t page_bytes, bytes;
} answer_region;

size_t answer_page(void);
const answer_region *answer_region_of(const void *address);
/* In the child: what is given is only to be read. */
void answer_protect_given(void);
/* Whether what lies around the arrays is as it was. */
void answer_check_fences(void);

/* ---- Cells on request (answer_cells.c) --------------------------------------------------------------- */

/* None is held and none was asked for; the pages of all are there. */
void answer_clear_cells(void);
/* The parent's side: hands out a cell, or says what is wrong with the request. */
bool answer_serve(void);
/* In the child: cells are only to be read. */
void answer_protect_cells(void);
bool answer_is_cell(const unsigned char *address);

/* ---- The child: its rights, its faults (answer_child.c, answer_faults.c) ----------------------------- */

void answer_confine(void);
void answer_catch_signals(void);
bool answer_is_reference(const void *address);

/* ---- What became of it (answer_verdict.c) ------------------------------------------------------------ */

/* The end of a process that did not come back from the call. */
void answer_judge_end(int status);
void answer_show(void);

#endif
