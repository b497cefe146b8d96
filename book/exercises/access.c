/**
 * @file access.c
 * @brief The functions that a kernel compiled with -fsanitize=thread calls: see access.h.
 */
#include "access.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "answer.h"

/* ---- What was announced --------------------------------------------------------------------------- */

/* simt::Site, and the engine's functions by their names in C++; admit.sh makes the answer call ours. */
typedef struct site {
    const char *file;
    int line;
} site;
void touch_global(const void *p, unsigned bytes, bool write, site at, const void *value)
    __asm__("_ZN4simt12touch_globalEPKvjbNS_4SiteES1_");
void touch_shared(const void *p, unsigned bytes, bool write, site at) __asm__("_ZN4simt12touch_sharedEPKvjbNS_4SiteE");
void *shared_base(size_t bytes, site at) __asm__("_ZN4simt11shared_baseEmNS_4SiteE");

void access_touch_global(const void *p, unsigned bytes, bool write, site at, const void *value);
void access_touch_shared(const void *p, unsigned bytes, bool write, site at);
void *access_shared_base(size_t bytes, site at);

/* The beginning of simt::Launch. */
typedef struct launch {
    const char *name;
    unsigned grid[3];
} launch;
void run(const launch *l) __asm__("_ZN4simt3runERKNS_6LaunchE");
void access_run(const launch *l);

typedef struct span {
    const unsigned char *start;
    size_t bytes;
    bool write;
    const unsigned char *frame; // of who announced it
} span;

#define BLOCKS 256
#define STACK (256 << 10) // bytes of a fiber's stack
static span announced, shared[BLOCKS]; // of all CTAs that were alive at a time
static int n_shared;
static const unsigned char *host; // where on its stack the host's code runs
static simt_counters atomics;

static bool within(span s, const void *p, size_t bytes)
{
    const uintptr_t offset = (uintptr_t)p - (uintptr_t)s.start; // wraps below the start
    return offset <= s.bytes && bytes <= s.bytes - offset;
}

/* Whether that is in a thread of a kernel, and not in what launches it. */
static bool in_kernel(const unsigned char *frame)
{
    return host && (frame > host || host - frame > (8 << 20));
}

/* What one instruction moves; the engine would count a larger one as if it were. */
static void announce(const void *p, unsigned bytes, bool write, const void *pc)
{
    if (bytes > 16)
        answer_stop(pc, "a load or store of more than 16 bytes: no instruction moves so much");
    announced = (span){p, bytes, write, __builtin_frame_address(0)};
}

void access_touch_global(const void *p, unsigned bytes, bool write, site at, const void *value)
{
    if (!in_kernel(__builtin_frame_address(0)))
        answer_stop(__builtin_return_address(0), "what launches a kernel has no arrays: only its threads load and store");
    announce(p, bytes, write, __builtin_return_address(0));
    touch_global(p, bytes, write, at, value);
}

void access_touch_shared(const void *p, unsigned bytes, bool write, site at)
{
    announce(p, bytes, write, __builtin_return_address(0));
    touch_shared(p, bytes, write, at);
}

void *access_shared_base(size_t bytes, site at)
{
    void *p = shared_base(bytes, at);
    int i = 0;
    while (i < n_shared && shared[i].start != p)
        i++;
    if (i < BLOCKS)
        shared[i] = (span){p, bytes, false, NULL};
    n_shared += i == n_shared && i < BLOCKS;
    return p;
}

#define MOST_BLOCKS (1 << 20) // more than any exercise has elements

void access_run(const launch *l)
{
    const double blocks = (double)l->grid[0] * l->grid[1] * l->grid[2];
    char text[80];
    snprintf(text, sizeof text, "a grid of %.0f CTAs: expected at most %d", blocks, MOST_BLOCKS);
    if (blocks > MOST_BLOCKS)
        answer_stop(__builtin_return_address(0), text);
    run(l);
    n_shared = 0; // it is gone: what launches the next kernel may be given that memory
}

void access_begin(void)
{
    host = __builtin_frame_address(0);
    n_shared = 0;
    memset(&atomics, 0, sizeof atomics);
}

void access_count(simt_counters *n)
{
    n->load_bytes += atomics.load_bytes;
    n->load_sectors += atomics.load_sectors;
    n->store_bytes += atomics.store_bytes;
    n->store_sectors += atomics.store_sectors;
}

/* ---- What is done ------------------------------------------------------------------------------------ */

static bool is_shared(const void *p)
{
    for (int i = 0; i < n_shared; i++)
        if (within(shared[i], p, 1))
            return true;
    return false;
}

/* Whether the same thread, on its own stack, has just told the engine of it. */
static bool is_announced(const void *p, size_t bytes, const unsigned char *frame)
{
    const ptrdiff_t between = frame - announced.frame;
    return within(announced, p, bytes) && between < STACK && between > -STACK;
}

extern char __data_start, _end;

static bool is_static(const void *p)
{
    return (uintptr_t)p >= (uintptr_t)&__data_start && (uintptr_t)p < (uintptr_t)&_end;
}

/* Where threads have entered functions of the answer, by the 64 KiB in which that is; a stack has its own. */
#define PLACES (1 << 14)
static uintptr_t entered[PLACES];

static void note_thread(uintptr_t frame)
{
    uintptr_t *place = &entered[(frame >> 16) % PLACES];
    if (*place >> 16 != frame >> 16 || *place < frame)
        *place = frame;
}

/* Whether that lies on the stack of a thread: near a place where one has entered. */
static bool is_local(uintptr_t p)
{
    for (uintptr_t unit = (p >> 16) - 1; unit <= (p >> 16) + STACK / 65536; unit++) {
        const uintptr_t frame = entered[unit % PLACES];
        if (frame >> 16 == unit && p < frame + 8192 && frame - STACK < p)
            return true;
    }
    return false;
}

static void see(const void *p, size_t bytes, bool write, const void *pc)
{
    const unsigned char *frame = __builtin_frame_address(0);
    answer_array array;
    char text[400];
    if (within((span){frame, STACK, true, NULL}, p, bytes) ||
        (write == announced.write && is_announced(p, bytes, frame)))
        return;
    if (is_shared(p))
        snprintf(text, sizeof text,
                 "an ordinary %s of shared memory, which is not counted: write %s", write ? "store" : "load",
                 write ? "st_shared(&place, value)" : "ld_shared(&place)");
    else if (answer_find(p, &array))
        snprintf(text, sizeof text, "an ordinary %s of %s (byte %lld of it), which is not counted: write %s",
                 write ? "store" : "load", array.name, (long long)array.offset,
                 write ? "st_global(&place, value)" : "ld_global(&place)");
    else if (write && (in_kernel(frame) || is_static(p)))
        snprintf(text, sizeof text,
                 "a store outside of its local variables, shared memory and the arrays: a kernel has no other memory");
    else if (in_kernel(frame) && is_local((uintptr_t)p))
        snprintf(text, sizeof text, "a load of another thread's local variables: write st_shared and ld_shared");
    else
        return;
    answer_stop(pc, text);
}

#define HERE __builtin_return_address(0)
#define SEEN(name, bytes, write) \
    void __tsan_##name(void *p); \
    void __tsan_##name(void *p) \
    { \
        see(p, bytes, write, HERE); \
    }
#define SEEN_ALL(n) \
    SEEN(read##n, n, false) \
    SEEN(write##n, n, true) \
    SEEN(unaligned_read##n, n, false) \
    SEEN(unaligned_write##n, n, true) \
    SEEN(read_write##n, n, true) \
    SEEN(unaligned_read_write##n, n, true)
SEEN_ALL(1)
SEEN_ALL(2)
SEEN_ALL(4)
SEEN_ALL(8)
SEEN_ALL(16)

void __tsan_init(void);
void __tsan_init(void)
{
}
void __tsan_func_entry(void *pc);
void __tsan_func_entry(void *pc)
{
    const unsigned char *frame = __builtin_frame_address(0);
    (void)pc;
    if (in_kernel(frame))
        note_thread((uintptr_t)frame);
}
void __tsan_func_exit(void);
void __tsan_func_exit(void)
{
}
void __tsan_vptr_update(void **p, void *value);
void __tsan_vptr_update(void **p, void *value)
{
    (void)value;
    see(p, sizeof *p, true, HERE);
}
void __tsan_vptr_read(void **p);
void __tsan_vptr_read(void **p)
{
    see(p, sizeof *p, false, HERE);
}
void __tsan_read_range(void *p, unsigned long bytes);
void __tsan_read_range(void *p, unsigned long bytes)
{
    see(p, bytes, false, HERE);
}
void __tsan_write_range(void *p, unsigned long bytes);
void __tsan_write_range(void *p, unsigned long bytes)
{
    see(p, bytes, true, HERE);
}

/* memcpy and such, as the answer calls them or the compiler for it. */
void *access_memcpy(void *to, const void *from, size_t bytes);
void *access_memcpy(void *to, const void *from, size_t bytes)
{
    see(from, bytes, false, HERE);
    see(to, bytes, true, HERE);
    return memmove(to, from, bytes);
}
void *access_memmove(void *to, const void *from, size_t bytes);
void *access_memmove(void *to, const void *from, size_t bytes)
{
    see(from, bytes, false, HERE);
    see(to, bytes, true, HERE);
    return memmove(to, from, bytes);
}
void *access_memset(void *to, int value, size_t bytes);
void *access_memset(void *to, int value, size_t bytes)
{
    see(to, bytes, true, HERE);
    return memset(to, value, bytes);
}

int access_memcmp(const void *a, const void *b, size_t bytes);
int access_memcmp(const void *a, const void *b, size_t bytes)
{
    see(a, bytes, false, HERE);
    see(b, bytes, false, HERE);
    return memcmp(a, b, bytes);
}

/* printf writes too: the number of characters so far, where %n says. */
int access_printf(const char *format, ...);
int access_printf(const char *format, ...)
{
    va_list args;
    for (const char *at = format; (at = strchr(at, '%')) != NULL; at++) {
        at += 1 + strspn(at + 1, "0123456789 +-#'*.$hlLqjzt");
        if (*at == 'n')
            answer_stop(HERE, "printf with %n stores a number, which is not counted: write st_global(&place, value)");
        if (!*at)
            break;
    }
    va_start(args, format);
    const int n = vprintf(format, args);
    va_end(args);
    return n;
}

/* ---- Atomics ----------------------------------------------------------------------------------------- */

/* One that a helper has announced (red_add) is counted already. */
static void see_atomic(const volatile void *p, size_t bytes, bool read, bool write, const void *pc)
{
    answer_array array;
    if (is_shared((const void *)p))
        answer_stop(pc, "an atomic on shared memory, which is not counted: write ld_shared and st_shared");
    if (is_announced((const void *)p, bytes, __builtin_frame_address(0)))
        return;
    if (!answer_find((const void *)p, &array)) {
        see((const void *)p, bytes, write, pc);
        return;
    }
    atomics.load_bytes += read ? bytes : 0;
    atomics.load_sectors += read;
    atomics.store_bytes += write ? bytes : 0;
    atomics.store_sectors += write;
}

#define UPDATE(n, name) \
    uint##n##_t __tsan_atomic##n##_##name(volatile uint##n##_t *p, uint##n##_t v, int order); \
    uint##n##_t __tsan_atomic##n##_##name(volatile uint##n##_t *p, uint##n##_t v, int order) \
    { \
        (void)order; \
        see_atomic(p, n / 8, true, true, HERE); \
        return __atomic_##name(p, v, __ATOMIC_SEQ_CST); \
    }
#define EXCHANGE(n, name) \
    int __tsan_atomic##n##_##name(volatile uint##n##_t *p, uint##n##_t *old, uint##n##_t v, int order, int f); \
    int __tsan_atomic##n##_##name(volatile uint##n##_t *p, uint##n##_t *old, uint##n##_t v, int order, int f) \
    { \
        (void)order, (void)f; \
        see_atomic(p, n / 8, true, true, HERE); \
        return __atomic_compare_exchange_n(p, old, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
    }
#define ATOMICS(n) \
    uint##n##_t __tsan_atomic##n##_load(const volatile uint##n##_t *p, int order); \
    uint##n##_t __tsan_atomic##n##_load(const volatile uint##n##_t *p, int order) \
    { \
        (void)order; \
        see_atomic(p, n / 8, true, false, HERE); \
        return __atomic_load_n(p, __ATOMIC_SEQ_CST); \
    } \
    void __tsan_atomic##n##_store(volatile uint##n##_t *p, uint##n##_t v, int order); \
    void __tsan_atomic##n##_store(volatile uint##n##_t *p, uint##n##_t v, int order) \
    { \
        (void)order; \
        see_atomic(p, n / 8, false, true, HERE); \
        __atomic_store_n(p, v, __ATOMIC_SEQ_CST); \
    } \
    uint##n##_t __tsan_atomic##n##_exchange(volatile uint##n##_t *p, uint##n##_t v, int order); \
    uint##n##_t __tsan_atomic##n##_exchange(volatile uint##n##_t *p, uint##n##_t v, int order) \
    { \
        (void)order; \
        see_atomic(p, n / 8, true, true, HERE); \
        return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); \
    } \
    uint##n##_t __tsan_atomic##n##_compare_exchange_val(volatile uint##n##_t *p, uint##n##_t old, uint##n##_t v, \
                                                        int order, int f); \
    uint##n##_t __tsan_atomic##n##_compare_exchange_val(volatile uint##n##_t *p, uint##n##_t old, uint##n##_t v, \
                                                        int order, int f) \
    { \
        (void)order, (void)f; \
        see_atomic(p, n / 8, true, true, HERE); \
        __atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
        return old; \
    } \
    UPDATE(n, fetch_add) \
    UPDATE(n, fetch_sub) \
    UPDATE(n, fetch_and) \
    UPDATE(n, fetch_or) \
    UPDATE(n, fetch_xor) \
    UPDATE(n, fetch_nand) \
    EXCHANGE(n, compare_exchange_strong) \
    EXCHANGE(n, compare_exchange_weak)
ATOMICS(8)
ATOMICS(16)
ATOMICS(32)
ATOMICS(64)

void __tsan_atomic_thread_fence(int order);
void __tsan_atomic_thread_fence(int order)
{
    (void)order;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
