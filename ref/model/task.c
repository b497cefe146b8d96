/* Associative recall: drawing sequences, judging answers. */
#include "task.h"

#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "random.h"

#define HELD_OUT 0x6a75646765u /* mixed into the seed: what training does not see */

/* A random order of 0..n-1 (Fisher and Yates). */
static void shuffle(uint64_t seed, int n, int *order)
{
    for (int i = 0; i < n; i++)
        order[i] = i;
    for (int i = n - 1; i > 0; i--) {
        int j = (int)(random_uniform(seed, (uint64_t)i) * (i + 1)), kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
}

void task_draw(uint64_t seed, uint64_t number, int length, uint8_t *tokens, uint8_t *targets, int *distance)
{
    const int pairs = length / 2;
    const uint64_t own = random_bits(seed, number);
    int place[TASK_MAX_LENGTH / 2], key[TASK_KEYS];
    shuffle(own, pairs, place);
    shuffle(own + 1, TASK_KEYS, key);
    memset(distance, 0, (size_t)length * sizeof *distance);
    for (int a = 0; a < pairs; a++) {
        uint8_t value = (uint8_t)(TASK_KEYS + (int)(random_uniform(own + 2, (uint64_t)(a / 2)) * TASK_KEYS));
        tokens[2 * place[a]] = (uint8_t)key[a / 2];
        tokens[2 * place[a] + 1] = value;
    }
    for (int a = 0; a + 1 < pairs; a += 2) {
        int first = place[a] < place[a + 1] ? place[a] : place[a + 1], second = place[a] + place[a + 1] - first;
        distance[2 * second] = 2 * (second - first);
    }
    memcpy(targets, tokens + 1, (size_t)length - 1);
    targets[length - 1] = 0; /* never asked for: it follows a value */
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
    for (int a = 0; ok && a < count; a++) {
        uint8_t *targets = tokens + n;
        task_draw(seed ^ HELD_OUT, (uint64_t)a, n, tokens, targets, distance);
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

void task_text(const model *m, uint64_t seed, int count, uint8_t *bytes)
{
    const int n = m->config.context;
    uint8_t targets[TASK_MAX_LENGTH];
    int distance[TASK_MAX_LENGTH];
    for (int a = 0; a < count; a++)
        task_draw(seed ^ HELD_OUT, (uint64_t)a, n, bytes + (size_t)a * (size_t)n, targets, distance);
    bytes[(size_t)count * (size_t)n] = 0;
}
