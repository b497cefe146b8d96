/* Chapter 11: one kernel on the engine: right, wrong, and counted. */
#include <string.h>

#include "index_text.h"

enum { SEEDS = 10 };

static bool agrees(const index_text *x)
{
    return distance(x->expected, x->found, (long)msa_n_blocks(&x->s)) == 0;
}

static void print_right(const msa_device *engine)
{
    index_text x = begin_text(engine, 8);
    int right = 0;
    for (int order = 0; order < 3; order++)
        for (int timing = 0; timing < 3; timing++)
            right += !attempt(engine, &x, COPIED, order, timing, 1) && agrees(&x);
    printf("8 blocks of 128 keys: no report, and equal to msa_index(), in %d of 9 ways to run the kernel\n", right);
    end_text(engine, &x);
}

/* The engine's words, broken before column 100. */
static void print_report(const char *words)
{
    int column = 0;
    while (*words) {
        const int gap = (int)strspn(words, " "), n = (int)strcspn(words + gap, " \n");
        if (column && column + gap + n >= 100)
            column = printf("\n      ") - 1;
        else
            column += printf("%*s", gap, "");
        column += printf("%.*s", n, words + gap);
        words += gap + n;
        if (*words == '\n')
            column = 0, putchar(*words++);
    }
    printf("\n");
}

static void print_wrong(const msa_device *engine)
{
    static const struct {
        const char *title;
        enum version v;
        int order;
    } wrong[] = {{"mbarrier_wait left out:", NO_WAIT, 0},
                 {"__syncthreads in the loop left out:", NO_BARRIER, 0},
                 {"the same, threads in reverse:", NO_BARRIER, 1},
                 {"threads return before it that have nothing left to do:", EARLY_RETURN, 0},
                 {"16 bytes too many expected:", TOO_MANY_BYTES, 0}};
    index_text x = begin_text(engine, 1);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const char *report = attempt(engine, &x, wrong[i].v, wrong[i].order, 0, 1);
        printf("\n%s\n", wrong[i].title);
        print_report(report ? report : "no report");
    }
    end_text(engine, &x);
}

/* How many of the seeds lead to a report. */
static int seen(const msa_device *engine, const index_text *x, enum version v, int order, int timing)
{
    int n = 0;
    for (unsigned seed = 1; seed <= SEEDS; seed++)
        n += attempt(engine, x, v, order, timing, seed) != NULL;
    return n;
}

static void print_seen(const msa_device *engine)
{
    index_text x = begin_text(engine, 1);
    printf("\nreported, of %d runs             late, forward  late, reverse  early, forward  random, random\n", SEEDS);
    for (enum version v = NO_WAIT; v <= NO_BARRIER; v++)
        printf("%-28s %14d %14d %15d %15d\n", v == NO_WAIT ? "mbarrier_wait left out" : "__syncthreads left out", seen(engine, &x, v, 0, 0),
               seen(engine, &x, v, 1, 0), seen(engine, &x, v, 0, 1), seen(engine, &x, v, 2, 2));
    end_text(engine, &x);
}

static void print_row(const char *what, uint64_t naive, uint64_t copied, uint64_t skewed)
{
    printf("%-24s %9llu %9llu %9llu\n", what, (unsigned long long)naive, (unsigned long long)copied, (unsigned long long)skewed);
}

static void print_counts(const msa_device *engine)
{
    simt_counters n[3];
    index_text x = begin_text(engine, 8);
    for (enum version v = NAIVE; v <= SKEWED; v++) {
        const char *report = attempt(engine, &x, v, 0, 0, 1);
        if (report || !agrees(&x))
            printf("version %d: %s\n", (int)v, report ? report : "wrong scores");
        n[v] = *simt_counts();
    }
    printf("\n%-24s %9s %9s %9s\n", "8 blocks of 128 keys", "naive", "copied", "skewed");
    print_row("bytes read", n[0].load_bytes, n[1].load_bytes, n[2].load_bytes);
    print_row("32-byte sectors read", n[0].load_sectors, n[1].load_sectors, n[2].load_sectors);
    print_row("shared accesses, warps", n[0].shared_accesses, n[1].shared_accesses, n[2].shared_accesses);
    print_row("bank conflicts", n[0].shared_conflicts, n[1].shared_conflicts, n[2].shared_conflicts);
    print_row("barriers, warps", n[0].barriers, n[1].barriers, n[2].barriers);
    end_text(engine, &x);
}

int main(void)
{
    engine_needed();
    const msa_device *engine = table_device("simt");
    print_right(engine);
    print_wrong(engine);
    print_seen(engine);
    print_counts(engine);
    return 0;
}
