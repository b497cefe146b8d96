/* Associative recall: drawing sequences, judging answers. */
#include "task.h"

#include <stdlib.h>
#include <string.h>

#include "../random.h"
#include "internal.h"

#define HELD_OUT 0x6a75646765u /* mixed into the seed: what training does not see */

void task_draw(uint64_t seed, uint64_t number, int length, uint8_t *tokens, uint8_t *targets, int *distance)
{
    const uint64_t own = random_bits(seed, number), keys = random_bits(seed, ~number);
    int place[TASK_KEYS], value[TASK_KEYS];
    memset(tokens, TASK_NOISE, (size_t)length);
    for (int k = 0; k < TASK_KEYS; k++) { /* a free place for each fact, by trial */
        uint64_t trial = (uint64_t)k;
        do {
            place[k] = (int)(random_uniform(keys, trial) * length);
            trial += TASK_KEYS;
        } while (tokens[place[k]] < TASK_ASK);
        value[k] = (int)(random_bits(own, (uint64_t)k) % TASK_VALUES);
        tokens[place[k]] = (uint8_t)(k * TASK_VALUES + value[k]);
    }
    for (int i = 0; i < length; i++) {
        const uint64_t bits = random_bits(own, (uint64_t)(TASK_KEYS + i));
        const int k = (int)(bits / 4 % TASK_KEYS);
        targets[i] = (uint8_t)(TASK_ANSWER + value[k]);
        distance[i] = 0;
        if (tokens[i] < TASK_ASK)
            continue;
        if (bits % 4 == 0 && place[k] < i) {
            tokens[i] = (uint8_t)(TASK_ASK + k);
            distance[i] = i - place[k];
        } else {
            tokens[i] = (uint8_t)(TASK_NOISE + (int)(bits / 64 % (256 - TASK_NOISE)));
        }
    }
}

static bool answered(const float *logits, uint8_t target)
{
    for (int v = 0; v < MODEL_VOCAB; v++)
        if (v != target && !(logits[v] < logits[target]))
            return false;
    return true;
}

bool task_judge(const model *m, const msa_ops *ops, uint64_t seed, int count, task_result *out)
{
    const int n = m->config.context;
    model_run *run = model_run_new(m, ops, 1, n, false);
    uint8_t *tokens = malloc(2 * (size_t)n);
    int *distance = malloc((size_t)n * sizeof *distance);
    float *nats = malloc((size_t)n * sizeof *nats);
    const bool ok = run && tokens && distance && nats;
    double asked[TASK_BINS] = {0}, right[TASK_BINS] = {0}, bits = 0;
    for (int sequence = 0; ok && sequence < count; sequence++) {
        uint8_t *targets = tokens + n;
        task_draw(seed ^ HELD_OUT, (uint64_t)sequence, n, tokens, targets, distance);
        model_forward(m, run, MSA_ATTN_SPARSE, tokens);
        model_loss(run, targets, nats);
        for (int i = 0; i < n; i++) {
            if (distance[i] == 0)
                continue;
            const int bin = (distance[i] - 1) * TASK_BINS / n;
            asked[bin]++;
            right[bin] += answered(model_run_logits(run) + (size_t)i * MODEL_VOCAB, targets[i]);
            bits += (double)nats[i] / log(2);
        }
    }
    double all = 0, all_right = 0;
    for (int b = 0; b < TASK_BINS; b++) {
        out->bin[b] = right[b] / asked[b];
        all += asked[b];
        all_right += right[b];
    }
    out->accuracy = all_right / all;
    out->bits = bits / all;
    model_run_free(run);
    free(tokens);
    free(distance);
    free(nats);
    return ok;
}

bool task_text(const model *m, uint64_t seed, int count, uint8_t *bytes)
{
    const size_t n = (size_t)m->config.context;
    uint8_t *targets = malloc(n);
    int *distance = malloc(n * sizeof *distance);
    const bool ok = targets && distance;
    for (int i = 0; ok && i < count; i++)
        task_draw(seed ^ HELD_OUT, (uint64_t)i, (int)n, bytes + (size_t)i * n, targets, distance);
    bytes[(size_t)count * n] = TASK_NOISE;
    free(targets);
    free(distance);
    return ok;
}
