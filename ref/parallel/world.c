/* A program that is one process. */
#include <stdatomic.h>
#include <unistd.h>

#include "transport.h"

transport *transport_world(void)
{
    return NULL;
}

void transport_leave(void)
{
}

void transport_will(const char *line)
{
    (void)line;
}

const char *transport_dead(void)
{
    return NULL;
}

void transport_last_word(void)
{
    static atomic_int said;
    while (atomic_exchange(&said, 1))
        pause();
}
