/* Training on ranks, seen from outside. */
#include "train_ranks.h"

#include <stdio.h>

#include "ranks.h"

bool train_is_first(const transport *t)
{
    return !t || t->rank == 0;
}

typedef struct word {
    uint64_t fingerprint;
    int status;
} word;

/* Everyone's, in `all`; this process ends where even that fails. */
static void exchange(transport *t, word mine, word all[CLI_MOST_RANKS])
{
    transport_part part[CLI_MOST_RANKS];
    for (int r = 0; r < t->ranks; r++)
        part[r] = (transport_part){&all[r], sizeof all[r]};
    if (!transport_gather(t, TRAFFIC_OTHER, (transport_part){&mine, sizeof mine}, part))
        t->end(t, 2);
}

/* The first rank whose status is not 0; -1: none. */
static int first_bad(const transport *t, const word *all)
{
    for (int r = 0; r < t->ranks; r++)
        if (all[r].status)
            return r;
    return -1;
}

int train_agree(transport *t, int status)
{
    word all[CLI_MOST_RANKS];
    if (!t)
        return status;
    exchange(t, (word){0, status}, all);
    const int bad = first_bad(t, all);
    return bad < 0 ? 0 : all[bad].status;
}

int train_agree_to_begin(const char *command, transport *t, int status, uint64_t fingerprint, const char *err)
{
    word all[CLI_MOST_RANKS];
    if (!t)
        return status;
    exchange(t, (word){fingerprint, status}, all);
    const int bad = first_bad(t, all);
    if (bad > 0 && bad == t->rank)
        cli_fail(command, "rank %d of %d: %s", bad, t->ranks, err);
    status = bad < 0 ? 0 : all[bad].status;
    for (int r = 1; r < t->ranks && !status; r++)
        if (all[r].fingerprint != all[0].fingerprint)
            status = t->rank
                         ? 2
                         : cli_fail(command,
                                    "rank %d of %d: expected the text and options of rank 0, found others", r,
                                    t->ranks);
    return status;
}

static void print_accounts(const train_account *all, int ranks, const double expected[TRAFFIC_N_KINDS])
{
    static const traffic_kind kinds[] = {TRAFFIC_INDEX_KEYS, TRAFFIC_KEYS, TRAFFIC_GRADIENTS,
                                         TRAFFIC_WEIGHTS};
    double sent = 0, seen = 0, most = 0;
    printf("%d ranks: a row each, with tokens of a step, seconds, and bytes by kind\n\n%4s%9s%10s%10s", ranks,
           "rank", "tokens", "worked", "waited");
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
        printf("  %14s", traffic_name(kinds[k]));
    for (int r = 0; r < ranks; r++) {
        const train_account *a = &all[r];
        printf("\n%4d%9.0f%10.2f%10.2f", r, a->tokens, a->seconds - a->waited, a->waited);
        for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
            printf("  %14.0f", a->sent[kinds[k]]);
            sent += a->sent[kinds[k]];
        }
        seen += a->seen;
        most = a->seen > most ? a->seen : most;
    }
    printf(
        "\n\nsent %.0f bytes, by the model %.0f; keys that the fullest rank's tokens see: %.3f of the mean\n",
        sent, traffic_sum(expected), most * ranks / seen);
}

bool train_report(const trainer *t, transport *ranks, double seconds)
{
    train_account all[CLI_MOST_RANKS];
    double expected[TRAFFIC_N_KINDS];
    if (!trainer_accounts(t, seconds, all, expected))
        return false;
    if (ranks->rank == 0)
        print_accounts(all, ranks->ranks, expected);
    return true;
}
