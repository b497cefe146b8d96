/* The program's own memory, watched: what FAULT=heap does. */
#pragma once
#include <stddef.h>

/* Before and after main. heap_end aborts where a block or a descriptor is left. */
void heap_begin(void);
void heap_end(void);

/* malloc and aligned_alloc, filled with NaN, with a fence behind the end if the program itself calls;
 * realloc; free, which aborts where the fence is broken. */
void *heap_take(size_t alignment, size_t n, const void *caller);
void *heap_move(void *p, size_t n, const void *caller);
void heap_free(void *p);
