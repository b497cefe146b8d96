#define _GNU_SOURCE
#include "heap.h"

#include <fcntl.h>
#include <link.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern void *__libc_memalign(size_t, size_t), *__libc_realloc(void *, size_t);
extern void __libc_free(void *);

/* Blocks that the program took and has not given back; those of libraries are theirs to judge. */
static struct block {
    unsigned char *at;
    size_t n;
    const void *caller;
} blocks[1 << 14];
static int n_blocks;
static atomic_flag busy = ATOMIC_FLAG_INIT;

enum { FENCE = 64, FENCE_BYTE = 0xa5, NAN_BYTE = 0xff, MOST_BLOCKS = sizeof blocks / sizeof *blocks };

static void lock(void)
{
    while (atomic_flag_test_and_set(&busy))
        ;
}

static void unlock(void)
{
    atomic_flag_clear(&busy);
}

/* ---- What is the program's ----------------------------------------------------------------------------- */

static uintptr_t base, begin = UINTPTR_MAX, end;

static int find_program(struct dl_phdr_info *info, size_t size, void *unused)
{
    (void)size, (void)unused;
    base = info->dlpi_addr;
    for (int a = 0; a < info->dlpi_phnum; a++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[a];
        if (part->p_type == PT_LOAD) {
            begin = base + part->p_vaddr < begin ? base + part->p_vaddr : begin;
            end = base + part->p_vaddr + part->p_memsz;
        }
    }
    return 1; /* the program comes first; of libraries nothing is asked */
}

/* But for the first three, which a program may close. */
static int descriptors(void)
{
    int n = 0;
    for (int fd = 3; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static int descriptors_before;

void heap_begin(void)
{
    descriptors_before = descriptors();
    dl_iterate_phdr(find_program, NULL);
}

/* Where it was taken: for addr2line -e PROGRAM. */
static void refuse(const char *what, const struct block *b)
{
    fprintf(stderr, "%s: a block of %zu bytes that was taken at %#zx\n", what, b->n,
            (size_t)((uintptr_t)b->caller - base));
    abort();
}

static void check_fence(const struct block *b)
{
    for (int a = 0; a < FENCE; a++)
        if (b->at[b->n + (size_t)a] != FENCE_BYTE)
            refuse("written behind the end", b);
}

void heap_end(void)
{
    end = 0; /* what comes now has no end to be seen at */
    for (int a = 0; a < n_blocks; a++) {
        check_fence(&blocks[a]);
        refuse("never freed", &blocks[a]);
    }
    if (descriptors() != descriptors_before) {
        fprintf(stderr, "%d descriptors before main, %d after\n", descriptors_before, descriptors());
        abort();
    }
}

/* ---- Blocks -------------------------------------------------------------------------------------------- */

void *heap_take(size_t alignment, size_t n, const void *caller)
{
    const bool ours = (uintptr_t)caller >= begin && (uintptr_t)caller < end;
    unsigned char *p = n > SIZE_MAX - FENCE ? NULL : __libc_memalign(alignment, n + FENCE);
    if (!p || !ours)
        return p;
    memset(p, NAN_BYTE, n);
    memset(p + n, FENCE_BYTE, FENCE);
    lock();
    if (n_blocks < MOST_BLOCKS)
        blocks[n_blocks++] = (struct block){p, n, caller};
    unlock();
    return p;
}

/* Takes a block from the list. */
static bool forget(const void *p, struct block *out)
{
    bool found = false;
    lock();
    for (int a = n_blocks - 1; a >= 0 && !found; a--)
        if (blocks[a].at == p) {
            found = true;
            *out = blocks[a];
            blocks[a] = blocks[--n_blocks];
        }
    unlock();
    return found;
}

void heap_free(void *p)
{
    struct block b;
    if (p && forget(p, &b)) {
        check_fence(&b);
        memset(p, NAN_BYTE, b.n);
    }
    __libc_free(p);
}

void *heap_move(void *p, size_t n, const void *caller)
{
    struct block b;
    if (p && !forget(p, &b))
        return __libc_realloc(p, n);
    void *to = heap_take(_Alignof(max_align_t), n, caller);
    if (p && to) {
        check_fence(&b);
        memcpy(to, p, b.n < n ? b.n : n);
        __libc_free(p);
    }
    return to;
}
