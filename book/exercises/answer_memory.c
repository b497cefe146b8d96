/**
 * @file answer_memory.c
 * @brief Arrays of the judge and of the answer, between pages that nobody may touch: see answer.h.
 */
#define _GNU_SOURCE
#include "answer_parts.h"

#include <sys/mman.h>
#include <unistd.h>

#define FENCE 0xa5 // in what is left of the pages of an array

// All, for the length of the program.
static answer_region *regions;

size_t answer_page(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

static void *new_region(usage use, int64_t bytes, const char *name, const char *how)
{
    answer_region *r = calloc(1, sizeof *r);
    const size_t n = bytes > 0 ? (size_t)bytes : 1,
                 pages = (n + answer_page() - 1) / answer_page() * answer_page();
    const int flags = (use == HIDDEN ? MAP_PRIVATE : MAP_SHARED) | MAP_ANONYMOUS;
    unsigned char *all = mmap(NULL, pages + 2 * answer_page(), PROT_NONE, flags, -1, 0);
    if (!r || all == MAP_FAILED || mprotect(all + answer_page(), pages, PROT_READ | PROT_WRITE) ||
        (use == HIDDEN && madvise(all, pages + 2 * answer_page(), MADV_DONTFORK))) {
        fprintf(stderr, "exercise: out of memory\n");
        exit(2);
    }
    *r = (answer_region){regions, use, name, how, all + answer_page(), NULL, pages, n};
    r->start = r->pages + (use == HIDDEN ? 0 : (pages - n) / 16 * 16); // its end near the end of a page
    if (use == GIVEN || use == WANTED)
        memset(r->pages, FENCE, pages);
    if (use != SHARED)
        memset(r->start, ANSWER_UNWRITTEN, n);
    regions = r;
    return r->start;
}

void *answer_hidden(int64_t bytes, const char *name, const char *how)
{
    return new_region(HIDDEN, bytes, name, how);
}

void *answer_given(int64_t bytes, const char *name)
{
    return new_region(GIVEN, bytes, name, NULL);
}

void *answer_wanted(int64_t bytes, const char *name)
{
    return new_region(WANTED, bytes, name, NULL);
}

void *answer_shared(int64_t bytes)
{
    return new_region(SHARED, bytes, NULL, NULL);
}

const answer_region *answer_region_of(const void *address)
{
    const unsigned char *a = address;
    for (const answer_region *r = regions; r; r = r->next)
        if (a >= r->pages - answer_page() && a < r->pages + r->page_bytes + answer_page())
            return r;
    return NULL;
}

void answer_name(const void *start, const char *name, const char *how)
{
    for (answer_region *r = regions; r; r = r->next)
        if (r->start == start)
            r->name = name, r->how = how;
}

bool answer_find(const void *address, answer_array *found)
{
    const answer_region *r = answer_region_of(address);
    if (!r || !r->name || r->use == HIDDEN)
        return false;
    *found = (answer_array){r->name, (const unsigned char *)address - r->start};
    return true;
}

void answer_check_fences(void)
{
    for (const answer_region *r = regions; r; r = r->next)
        for (size_t i = 0; r->use == WANTED && i < r->page_bytes; i++) {
            const unsigned char *at = r->pages + i;
            if ((at < r->start || at >= r->start + r->bytes) && *at != FENCE) {
                exercise_true(
                    false, "%s: something was written %lld bytes %s", r->name,
                    (long long)(at < r->start ? r->start - at : at - r->start - (ptrdiff_t)r->bytes),
                    at < r->start ? "before its start" : "behind its end");
                return;
            }
        }
}

void answer_protect_given(void)
{
    for (const answer_region *r = regions; r; r = r->next)
        if (r->use == GIVEN)
            mprotect(r->pages, r->page_bytes, PROT_READ);
}
