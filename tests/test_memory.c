/**
 * @file test_memory.c
 * @brief How much memory the fast path takes beside inputs and outputs, as the system counts it. A chunk of
 * 256 queries over 131072 keys; with MSA_LARGE=1 in the environment 4096 queries over a million keys, with
 * all heads of MiniMax-M3 (10 GB, some minutes): data/bench/cpu.sh asks for it.
 */
#define _DEFAULT_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../ref/judge/selections.h"
#include "support/check.h"

static const msa_shape small = {256, 1 << 17, 16, 1, 128, 128, 128, 16, 1, NULL, NULL, NULL, NULL};
static const msa_shape large = {4096, 1 << 20, 64, 4, 128, 128, 128, 16, 1, NULL, NULL, NULL, NULL};

// Inputs and outputs that a run has touched, in bytes.
static size_t held;

static void *hold(int64_t n)
{
    held += (size_t)n * sizeof(float);
    return check_floats(n);
}

// Any numbers do; all pages are touched.
static float *draw(int64_t n)
{
    float *x = hold(n);
    uint32_t state = 1;
    for (int64_t i = 0; i < n; i++) {
        state = state * 1664525 + 1013904223;
        x[i] = (float)(state >> 8) * 0x1p-23f - 1;
    }
    return x;
}

static msa_status run(msa_stage stage, const msa_shape *s)
{
    const int64_t nq = s->n_q * s->n_heads * s->d_head, nk = s->n_kv * s->n_kv_heads * s->d_head;
    const int64_t niq = s->n_q * s->n_kv_heads * s->d_index, nik = s->n_kv * s->d_index;
    const msa_kernel *kernel = msa_fast_ops.stage[stage];
    float *q = draw(nq), *k = draw(nk), *o = hold(nq), *lse = hold(s->n_q * s->n_heads);
    int32_t *ids = hold(s->n_kv_heads * s->n_q * s->topk);
    void *work = malloc(kernel->workspace(s)); // touched where it is used
    double loss;
    if (stage == MSA_STAGE_DENSE)
        return kernel->run(s, &(msa_arrays){.q = q, .k = k, .v = draw(nk), .o = o, .lse = lse}, work);
    if (stage == MSA_STAGE_PREFILL)
        return kernel->run(s,
                           &(msa_arrays){.q = q,
                                         .k = k,
                                         .v = draw(nk),
                                         .qi = draw(niq),
                                         .ki = draw(nik),
                                         .ids = ids,
                                         .o = o,
                                         .lse = lse},
                           work);
    selection_draw(s, SELECTION_RANDOM, 1, ids);
    if (stage == MSA_STAGE_BACKWARD) // without the forward's results, which takes more
        return kernel->run(s,
                           &(msa_arrays){.q = q,
                                         .k = k,
                                         .v = draw(nk),
                                         .ids = ids,
                                         .dout = draw(nq),
                                         .dq = o,
                                         .dk = hold(nk),
                                         .dv = hold(nk)},
                           work);
    return kernel->run(s,
                       &(msa_arrays){.q = q,
                                     .k = k,
                                     .qi = draw(niq),
                                     .ki = draw(nik),
                                     .ids = ids,
                                     .weight = 1,
                                     .loss = &loss,
                                     .dqi = hold(niq),
                                     .dki = hold(nik)},
                       work);
}

// In a process of its own, whose largest size is of this run alone.
static void measure(msa_stage stage, const msa_shape *s, double allowed_mb)
{
    check_case c =
        check_begin("%s: %lld queries over %lld keys take at most %.0f MB beside inputs and outputs",
                    msa_stage_name(stage), (long long)s->n_q, (long long)s->n_kv, allowed_mb);
    double found[3] = {0}; // status, MB held, MB at most
    int ends[2];
    if (pipe(ends) != 0)
        abort();
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        struct rusage use;
        held = 0;
        found[0] = run(stage, s) == MSA_OK;
        getrusage(RUSAGE_SELF, &use);
        found[1] = 1e-6 * (double)held;
        found[2] = 1024e-6 * (double)use.ru_maxrss;
        _exit(write(ends[1], found, sizeof found) == (ssize_t)sizeof found ? 0 : 1);
    }
    close(ends[1]);
    const bool told = read(ends[0], found, sizeof found) == (ssize_t)sizeof found;
    close(ends[0]);
    waitpid(child, NULL, 0);
    check_true(&c, told && found[0] != 0, "the run failed");
    check_true(&c, found[2] - found[1] <= allowed_mb, "%.0f MB beside %.0f MB", found[2] - found[1],
               found[1]);
    tap_note("%s: peak %.0f MB, inputs and outputs %.0f MB", msa_stage_name(stage), found[2], found[1]);
    check_end(&c);
}

int main(int argc, char **argv)
{
    static const msa_stage stages[] = {MSA_STAGE_PREFILL, MSA_STAGE_BACKWARD, MSA_STAGE_KL, MSA_STAGE_DENSE};
    const bool all = getenv("MSA_LARGE") != NULL;
    check_start(argc, argv);
    for (int i = 0; i < 3 + !all; i++) // dense attention to a million keys takes too long to be worth it
        measure(stages[i], all ? &large : &small, all ? 1000 : 128);
    return check_done();
}
