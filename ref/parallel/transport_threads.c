/* Ranks that are threads of one process: between two barriers everyone copies what the others have laid out. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "transport.h"

typedef struct room {
    pthread_barrier_t barrier;
    pthread_mutex_t all_are_there;
    bool called_off; /* not all could come */
    const transport_part **to;
    transport_task *task;
    void *context;
} room;

static bool exchange(transport *t, const transport_part *to, const transport_part *from)
{
    room *in = t->body;
    in->to[t->rank] = to;
    pthread_barrier_wait(&in->barrier);
    for (int r = 0; r < t->ranks; r++)
        if (r != t->rank && from[r].bytes)
            memcpy(from[r].data, in->to[r][t->rank].data, from[r].bytes);
    pthread_barrier_wait(&in->barrier);
    return true;
}

static void end(transport *t, int status)
{
    (void)t;
    exit(status);
}

static void *run(void *of)
{
    transport *t = of;
    room *in = t->body;
    pthread_mutex_lock(&in->all_are_there);
    pthread_mutex_unlock(&in->all_are_there);
    if (!in->called_off)
        in->task(t, in->context);
    return NULL;
}

bool transport_threads(int ranks, transport_task *task, void *context)
{
    const size_t n = (size_t)ranks;
    room in = {.all_are_there = PTHREAD_MUTEX_INITIALIZER, .task = task, .context = context};
    transport *t = calloc(n, sizeof *t);
    pthread_t *thread = malloc(n * sizeof *thread);
    in.to = malloc(n * sizeof *in.to);
    bool ok = t && thread && in.to && pthread_barrier_init(&in.barrier, NULL, (unsigned)ranks) == 0;
    const bool opened = ok;
    int started = 0;
    pthread_mutex_lock(&in.all_are_there);
    for (int r = 0; ok && r < ranks; r++) {
        t[r] = (transport){.rank = r, .ranks = ranks, .exchange = exchange, .end = end, .body = &in};
        ok = pthread_create(&thread[r], NULL, run, &t[r]) == 0;
        started += ok;
    }
    in.called_off = !ok;
    pthread_mutex_unlock(&in.all_are_there);
    for (int r = 0; r < started; r++)
        pthread_join(thread[r], NULL);
    if (opened)
        pthread_barrier_destroy(&in.barrier);
    free(t), free(thread), free(in.to);
    return ok;
}
