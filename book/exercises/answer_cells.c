/**
 * @file answer_cells.c
 * @brief Rows that an answer asks the other process for, which counts them: see answer.h.
 */
#define _GNU_SOURCE
#include "answer_parts.h"

#include <sys/mman.h>
#include <unistd.h>

#define SLOTS 4096
#define SLOT 256              // bytes
static unsigned char *window; // the cells that the answer holds; only the parent can write here
static int64_t hold = SLOTS, asked;

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

void answer_hold(int64_t cells)
{
    hold = cells;
}

bool answer_serve(void)
{
    const answer_source *s = source;
    while (s < source + n_sources && s->data != answer_mail->data)
        s++;
    if (s == source + n_sources) {
        exercise_true(false, "the answer asks for rows of an array that it was not given");
        return false;
    }
    if (answer_mail->row < 0 || answer_mail->row >= s->rows || answer_mail->column < 0 ||
        answer_mail->column >= s->columns) {
        char call[ANSWER_TEXT];
        const int n =
            snprintf(call, sizeof call, s->call, (long long)answer_mail->row, (long long)answer_mail->column);
        exercise_true(false, "%s: expected 0 to %lld%s%.0lld", n > 0 ? call : "", (long long)s->rows - 1,
                      s->columns > 1 ? ", and 0 to " : "", s->columns > 1 ? (long long)s->columns - 1 : 0);
        return false;
    }
    if (s->note)
        s->note(s->context, answer_mail->row, answer_mail->column);
    unsigned char *slot = window + asked % SLOTS * SLOT;
    if (asked >= hold)
        memset(window + (asked - hold) % SLOTS * SLOT, ANSWER_UNWRITTEN, SLOT);
    memset(slot, ANSWER_UNWRITTEN, SLOT);
    if (s->bytes)
        memcpy(slot,
               (const unsigned char *)s->data +
                   (size_t)(answer_mail->row * s->columns + answer_mail->column) * s->bytes,
               s->bytes);
    asked++;
    return true;
}

const void *answer_ask(const void *data, int64_t at_row, int64_t column)
{
    char go = 'r';
    answer_mail->data = data, answer_mail->row = at_row, answer_mail->column = column;
    if (write(answer_to_parent[1], &go, 1) != 1 || read(answer_to_child[0], &go, 1) != 1)
        _exit(1);
    return window + asked++ % SLOTS * SLOT;
}

void answer_clear_cells(void)
{
    if (!window) {
        window = answer_shared(SLOTS * SLOT);
        asked = SLOTS; // all pages are there: one counts as much in the first answer as later
    }
    memset(window, ANSWER_UNWRITTEN, (size_t)(asked < SLOTS ? asked : SLOTS) * SLOT);
    asked = 0;
}

void answer_protect_cells(void)
{
    mprotect(window, SLOTS * SLOT, PROT_READ);
}

bool answer_is_cell(const unsigned char *address)
{
    return address >= window && address < window + SLOTS * SLOT;
}
