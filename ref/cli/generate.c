/* msa generate: continues a prompt, byte by byte, over a KV cache. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../model/model.h"
#include "../random.h"
#include "cli.h"

/* Draws from softmax(logits / temperature); temperature 0 takes the largest. `u` is uniform in [0,1). */
static uint8_t sample(const float *logits, double temperature, double u)
{
    int best = 0;
    for (int v = 1; v < MODEL_VOCAB; v++)
        if (logits[v] > logits[best])
            best = v;
    if (!(temperature > 0))
        return (uint8_t)best;
    double weight[MODEL_VOCAB], sum = 0;
    for (int v = 0; v < MODEL_VOCAB; v++)
        sum += weight[v] = exp(((double)logits[v] - (double)logits[best]) / temperature);
    double left = u * sum;
    for (int v = 0; v < MODEL_VOCAB; v++)
        if ((left -= weight[v]) < 0)
            return (uint8_t)v;
    return (uint8_t)best; /* rounding ate the last weight */
}

static int generate(const char *command, const model *m, const msa_ops *ops, const char *prompt,
                    int64_t tokens, double temperature, uint64_t seed)
{
    const int64_t n = (int64_t)strlen(prompt), capacity = n + tokens;
    model_decoder *d = model_decoder_new(m, ops, (int)capacity);
    if (!d)
        return cli_fail(command, "expected memory for %lld tokens, found too little", (long long)capacity);
    fwrite(prompt, 1, (size_t)n, stdout);
    const float *logits = model_decode(d, (const uint8_t *)prompt, (int)n);
    int bad = 0;
    for (int64_t i = 0; i < tokens && logits && !bad; i++) {
        uint8_t byte = sample(logits, temperature, random_uniform(seed, (uint64_t)i));
        fputc(byte, stdout);
        bad = cli_flush(command);
        logits = i + 1 < tokens ? model_decode(d, &byte, 1) : NULL;
    }
    fputc('\n', stdout);
    model_decoder_free(d);
    return bad;
}

int cmd_generate(int argc, char **argv)
{
    const char *path = NULL, *prompt = NULL, *precision = NULL;
    msa_ops ops = msa_fast_ops;
    int64_t tokens = 400, seed = 1;
    double temperature = 0.8;
    const cli_option options[] = {
        {"--model", CLI_NEEDED, &path, 0, 0, "FILE.safetensors of 'msa train'"},
        {"--prompt", CLI_NEEDED, &prompt, 0, 0, "TEXT to continue"},
        {"--tokens", CLI_INT, &tokens, 1, 1 << 20, "N bytes to add"},
        {"--temperature", CLI_REAL, &temperature, 0, 100, "X 0 always takes the likeliest byte"},
        CLI_OPT_PRECISION(precision),
        CLI_OPT_SEED(seed),
        {0}};
    int status = cli_parse(argc, argv, options, NULL);
    if (status)
        return status;
    if (!*prompt)
        return cli_fail(argv[0], "--prompt: expected at least one byte, found none");
    status = cli_choose_precision(argv[0], "fast", precision, &ops);
    if (status)
        return status;
    io_error err;
    model m;
    if (!model_load(&m, path, err))
        return cli_fail(argv[0], "--model: %s", err);
    if (!model_decodes(&m.config))
        status = cli_fail(
            argv[0],
            "--model %s: expected MSA's selector and no value head, which a decoding step has, found others",
            path);
    else
        status = generate(argv[0], &m, &ops, prompt, tokens, temperature, (uint64_t)seed);
    model_free(&m);
    return status;
}
