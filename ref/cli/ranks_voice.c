/* Processes that mpirun started speak with one voice: the first rank's, or that of the first that failed. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ranks.h"

static volatile sig_atomic_t real_stderr = -1; /* of a rank whose own goes into a file meanwhile */
static bool agreed;

bool cli_says_who_died(void)
{
    const char *line = transport_dead();
    const ssize_t n = line ? write(real_stderr < 0 ? 2 : real_stderr, line, strlen(line)) : 0;
    (void)n; /* less where nobody hears it */
    return line;
}

void cli_end_by(int number)
{
    if (cli_says_who_died())
        _exit(128 + number);
    transport_will(NULL);
    signal(number, SIG_DFL);
    raise(number);
}

void cli_keep_will(const char *command, const char *rest)
{
    char line[256];
    const transport *world = transport_world();
    if (!world)
        return;
    snprintf(line, sizeof line, "msa %s: rank %d of %d has died%s\n", command, world->rank, world->ranks,
             rest);
    transport_will(line);
}

void cli_start_ranks(void)
{
    const transport *world = transport_world();
    FILE *kept = world && world->rank > 0 ? tmpfile() : NULL;
    if (world)
        signal(SIGTERM, cli_end_by);
    if (!world || world->rank == 0)
        return;
    if (!freopen("/dev/null", "w", stdout))
        exit(2);
    if (kept) {
        real_stderr = dup(2);
        dup2(fileno(kept), 2);
    }
}

bool cli_takes_ranks(const char *name)
{
    static const char *const takes[] = {"forward", "backward", "dense", "decode", "train", "help", "version"};
    for (size_t i = 0; i < sizeof takes / sizeof *takes; i++)
        if (strcmp(name, takes[i]) == 0)
            return true;
    return false;
}

bool cli_is_first(void)
{
    return !transport_world() || transport_world()->rank == 0;
}

/* What was kept back is said, or forgotten. */
static void restore_stderr(bool say)
{
    char text[4096];
    if (real_stderr < 0)
        return;
    fflush(stderr);
    lseek(2, 0, SEEK_SET);
    for (ssize_t n; say && (n = read(2, text, sizeof text)) > 0;)
        if (write(real_stderr, text, (size_t)n) != n)
            break;
    const int mine = real_stderr;
    dup2(mine, 2);
    real_stderr = -1;
    close(mine);
}

/* What all ranks have, rank after rank. */
static void tell_all(transport *world, const void *mine, size_t bytes, void *all)
{
    transport_part part[CLI_MOST_RANKS];
    for (int r = 0; r < world->ranks; r++)
        part[r] = (transport_part){(char *)all + (size_t)r * bytes, bytes};
    if (!transport_gather(world, TRAFFIC_OTHER, (transport_part){(void *)(uintptr_t)mine, bytes}, part))
        world->end(world, 2);
}

bool cli_same_command(const char *name)
{
    transport *world = transport_world();
    char mine[16] = "", all[CLI_MOST_RANKS][sizeof mine];
    if (!world || world->ranks > CLI_MOST_RANKS)
        return true;
    snprintf(mine, sizeof mine, "%s", name);
    tell_all(world, mine, sizeof mine, all);
    for (int r = 1; r < world->ranks; r++)
        if (strcmp(all[r], all[0]) != 0) {
            if (world->rank == 0)
                cli_fail(NULL, "mpirun: expected one command, found '%s' on rank 0 and '%s' on rank %d",
                         all[0], all[r], r);
            return false;
        }
    return true;
}

int cli_agree(int status)
{
    transport *world = transport_world();
    int all[CLI_MOST_RANKS] = {0}, first = -1;
    if (!world || agreed)
        return status;
    agreed = true;
    if (world->ranks > CLI_MOST_RANKS) {
        if (world->rank == 0)
            cli_fail(NULL, "mpirun: expected at most %d processes, found %d", CLI_MOST_RANKS, world->ranks);
        return 2;
    }
    tell_all(world, &status, sizeof status, all);
    for (int r = world->ranks - 1; r >= 0; r--)
        first = all[r] ? r : first;
    restore_stderr(first > 0 && first == world->rank);
    return first < 0 ? 0 : all[first];
}
