/* OpenMP's threads. Where it cannot start one it ends the program with words of its own, so they all start
 * before there is any work, and no more than there is room for. */
#ifdef _OPENMP
#include <omp.h>
#include <pthread.h>
#endif

#include "cli.h"

#ifdef _OPENMP
#define MOST_THREADS 1024

static pthread_mutex_t all_are_there = PTHREAD_MUTEX_INITIALIZER;

static void *wait_for_all(void *nothing)
{
    pthread_mutex_lock(&all_are_there);
    pthread_mutex_unlock(&all_are_there);
    return nothing;
}

/* Of so many threads, this one included, those that can live at the same time. */
static int room_for(int wanted)
{
    pthread_t thread[MOST_THREADS];
    int n = 1;
    pthread_mutex_lock(&all_are_there);
    while (n < wanted && n < MOST_THREADS && pthread_create(&thread[n], NULL, wait_for_all, NULL) == 0)
        n++;
    pthread_mutex_unlock(&all_are_there);
    for (int i = 1; i < n; i++)
        pthread_join(thread[i], NULL);
    return n;
}

void cli_start_threads(void)
{
    omp_set_num_threads(room_for(omp_get_max_threads()));
#pragma omp parallel
    {
    }
}

int cli_threads(void)
{
    return omp_get_max_threads();
}

void cli_set_threads(int n)
{
    omp_set_num_threads(n > 1 ? n : 1);
}
#else
void cli_start_threads(void)
{
}

int cli_threads(void)
{
    return 1;
}

void cli_set_threads(int n)
{
    (void)n;
}
#endif
