/**
 * @file answer.h
 * @brief A student's code runs in a process of its own, which holds nothing but what the answer may know.
 *
 * ANSWER(attend(q, &k, &v, visible, o)) forks. The child makes the call. Keys, values and whatever else is
 * counted, and all that the reference computed, are not there: each row has to be asked for through row(),
 * and the parent, which hands it out, counts. The child can compute, and nothing else: the system refuses
 * it files, other processes and the way out. So what it prints, how it ends and where it writes say nothing:
 * the parent judges the bytes that the answer left in the arrays it was given, and its own counts.
 */
#ifndef MSA_ANSWER_H
#define MSA_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Runs calls in the answer's process. Ends there or, if that went wrong, leaves a failed verdict. */
#define ANSWER(...)                                                                                            \
    do                                                                                                         \
        if (answer_begin()) {                                                                                  \
            __VA_ARGS__;                                                                                       \
            answer_end();                                                                                      \
        }                                                                                                      \
    while (0)
bool answer_begin(void);
void answer_end(void);
bool answer_runs(void); /**< whether this is the answer's process */

/* ---- Memory: of the judge, to be read, to be written ---------------------------------------------- */

/** For the judge alone: an answer that comes here is told `how` to ask, or that this is not for it. All live
 *  for the length of the program, and are 0xff in every byte, NaN as floats. */
void *answer_hidden(int64_t bytes, const char *name, const char *how);
void answer_name(const void *hidden, const char *name, const char *how); /**< later */
/** What the answer may read, and what it may write; pages that nobody may touch lie before and behind. */
void *answer_given(int64_t bytes, const char *name);
void *answer_wanted(int64_t bytes, const char *name);
/** For what the judge's own code says in the answer's process: seen by both, without a fence. */
void *answer_shared(int64_t bytes);
/** Whether an address lies in such an array that has a name; which one, and how to read and write it. */
typedef struct answer_array {
    const char *name;
    int64_t offset; /**< bytes */
} answer_array;
bool answer_find(const void *address, answer_array *found);

/* ---- What is handed out on request ------------------------------------------------------------------ */

/** An array of rows and columns of cells. The answer gets one cell at a time. */
typedef struct answer_source {
    const void *data;
    int64_t rows, columns;
    size_t bytes;     /**< of a cell */
    const char *call; /**< for verdicts: "row(k, %lld, %lld)" */
    void (*note)(void *context, int64_t row, int64_t column);
    void *context;
} answer_source;
void answer_offer(const answer_source *source);
bool answer_offered(const void *data);
/** In the answer's process: cell [row,column] of the source with this data, which stays valid until as many
 *  more have been asked for as answer_hold() said. NULL as data of a cell without bytes. */
const void *answer_ask(const void *data, int64_t row, int64_t column);
/** The answer may hold so many cells at once; 4096 unless this says less. */
void answer_hold(int64_t cells);

/* ---- What became of it ------------------------------------------------------------------------------- */

/** In the answer's process: what the judge is to say. Only the first counts. */
void answer_complain(const char *text);
/** In the answer's process: the same, said of the line of the answer that led to `pc`; ends the process. */
_Noreturn void answer_stop(const void *pc, const char *text);
/** Bytes of the pages that the last answer touched, wherever they lie, as the system counts them: a new process
 *  shares each page until it writes there. What it does not touch twice, or restores, counts all the same. */
uint64_t answer_memory(void);
bool answer_lost(void); /**< whether an answer went wrong, after which none is asked any more */
/** A call counts as endless after 10 seconds of processor time. From now on these begin anew whenever this count has
 *  changed, which the judge's own code keeps in the answer's process, up to 120 in all: a slow machine is no loop. */
void answer_progress(const uint64_t *count);
/** What the loader takes for the answer's abort() and assert() (admit.sh). */
_Noreturn void answer_abort(void);
_Noreturn void answer_assert(const char *what, const char *file, unsigned line, const char *function);

#endif
