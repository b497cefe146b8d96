/* Scratch, sized and placed by one list. A function that takes its pieces from an arena is called over no
 * memory to learn how many bytes they are, and over so many to place them:
 *
 *     static size_t place(scratch *w, const msa_shape *s, void *work)
 *     {
 *         arena a = arena_over(work);
 *         w->p = arena_take(&a, longest_kv(s), sizeof *w->p);
 *         w->acc = arena_take(&a, s->d_head, sizeof *w->acc);
 *         return arena_bytes(&a);
 *     } */
#ifndef MSA_ARENA_H
#define MSA_ARENA_H

#include <stddef.h>
#include <stdint.h>

#define ARENA_ALIGN 64
#define ARENA_MOST (SIZE_MAX / 4) /* sizes end here instead of wrapping around */

typedef struct arena {
    char *base;        /* NULL: pieces are only counted */
    size_t used, most; /* bytes handed out, and the most there ever were */
} arena;

/* Starts on a multiple of ARENA_ALIGN, whatever the caller's pointer is. */
static inline arena arena_over(void *memory)
{
    const uintptr_t at = ((uintptr_t)memory + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    return (arena){(char *)at, 0, 0};
}

/* The next piece: `count` items of `size` bytes; NULL where pieces are only counted. */
static inline void *arena_take(arena *a, int64_t count, size_t size)
{
    char *piece = a->base ? a->base + a->used : NULL;
    const size_t bytes = size > 0 && (uint64_t)count > ARENA_MOST / size
                             ? ARENA_MOST
                             : ((size_t)count * size + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    a->used = bytes < ARENA_MOST - a->used ? a->used + bytes : ARENA_MOST;
    a->most = a->used > a->most ? a->used : a->most;
    return piece;
}

/* A piece for what is over before the pieces that follow are used, or begins after: they lie in its place. */
static inline void *arena_share(arena *a, size_t bytes)
{
    const size_t used = a->used;
    void *piece = arena_take(a, 1, bytes);
    a->used = used;
    return piece;
}

/* The memory to ask for, if it starts on a multiple of ARENA_ALIGN; else ARENA_ALIGN more. */
static inline size_t arena_bytes(const arena *a)
{
    return a->most;
}

#endif
