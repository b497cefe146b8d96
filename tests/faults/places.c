#include "places.h"

#include <execinfo.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { MOST = 1 << 14, DEEP = 64 };

/* Chains of return addresses, by a hash of 64 bits of each and its kind. */
static struct place {
    uint64_t hash;
    int kind;
    long first, last;
} places[MOST];
static int n_places;
static atomic_flag busy = ATOMIC_FLAG_INIT;

/* The unwinder allocates once, when it is first asked. */
void places_begin(void)
{
    void *one[1];
    backtrace(one, 1);
}

static uint64_t hash_of(int kind, void *const *chain, int n)
{
    uint64_t hash = 14695981039346656037u + (uint64_t)kind;
    for (int i = 0; i < n; i++)
        hash = (hash ^ (uintptr_t)chain[i]) * 1099511628211u;
    return hash;
}

/* The place of that hash, or the free one where it belongs. */
static struct place *find(uint64_t hash)
{
    uint64_t at = hash % MOST;
    while (places[at].first && places[at].hash != hash)
        at = (at + 1) % MOST;
    return &places[at];
}

void places_note(int kind, long n)
{
    void *chain[DEEP];
    const uint64_t hash = hash_of(kind, chain, backtrace(chain, DEEP));
    while (atomic_flag_test_and_set(&busy))
        ;
    struct place *p = find(hash);
    if (!p->first) {
        *p = (struct place){.hash = hash, .kind = kind, .first = n};
        if (++n_places == MOST)
            abort();
    }
    p->last = n;
    atomic_flag_clear(&busy);
}

void places_write(const char *file, const char *const *kinds)
{
    FILE *f = fopen(file, "w");
    for (int i = 0; f && i < MOST; i++)
        if (places[i].first)
            fprintf(f, "%s %ld %ld\n", kinds[places[i].kind], places[i].first, places[i].last);
    if (!f || fclose(f) != 0)
        abort();
}
