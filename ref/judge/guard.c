/**
 * @file guard.c
 * @brief Fences and poison around one allocation.
 */
#include "guard.h"

#include <stdlib.h>
#include <string.h>

#define FENCE 64
#define FENCE_BYTE 0xa5
#define POISON 0x7fc5a5a5u

static unsigned char *base_of(const guard *g)
{
    return (unsigned char *)g->data - FENCE;
}

bool guard_new(guard *g, size_t bytes)
{
    *g = (guard){NULL, (bytes + 3) / 4 * 4};
    unsigned char *base = bytes <= PTRDIFF_MAX ? malloc(FENCE + g->bytes + FENCE) : NULL;
    if (!base)
        return false;
    g->data = base + FENCE;
    memset(base, FENCE_BYTE, FENCE);
    memset(base + FENCE + g->bytes, FENCE_BYTE, FENCE);
    guard_poison(g);
    return true;
}

void guard_free(guard *g)
{
    if (g->data)
        free(base_of(g));
    *g = (guard){NULL, 0};
}

void guard_poison(guard *g)
{
    uint32_t *word = g->data;
    for (size_t i = 0; i < g->bytes / 4; i++)
        word[i] = POISON;
}

bool guard_intact(const guard *g)
{
    const unsigned char *before = base_of(g), *after = before + FENCE + g->bytes;
    for (int i = 0; i < FENCE; i++)
        if (before[i] != FENCE_BYTE || after[i] != FENCE_BYTE)
            return false;
    return true;
}

int64_t guard_unwritten(const guard *g)
{
    for (size_t i = 0; i < g->bytes / 4; i++) {
        uint32_t word; // copied, since the data is float to others
        memcpy(&word, (const unsigned char *)g->data + 4 * i, 4);
        if (word == POISON)
            return (int64_t)i;
    }
    return -1;
}
