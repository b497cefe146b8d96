/**
 * @file json.c
 * @brief Whether building JSON has had all of its memory: jansson leaves out what it has none for, and a
 * caller would have to look at every single call.
 */
#ifdef HAVE_JANSSON
#include <jansson.h>
#include <stdlib.h>

#include "io.h"

static bool whole;

static void *take(size_t bytes)
{
    void *p = malloc(bytes);
    whole = whole && p;
    return p;
}

void io_json_begin(void)
{
    json_set_alloc_funcs(take, free);
    whole = true;
}

bool io_json_whole(void)
{
    return whole;
}
#endif
