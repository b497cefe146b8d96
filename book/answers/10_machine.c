/* Answers to chapter 10: where stages of M3 lie under the roof, by formulas, and strides without a conflict. */
#include "../examples/example.h"

static const double rate_h800 = 3.35e12, rate_h200 = 4.8e12, clock = 1.83e9;

/* Different words of one bank that 32 lanes ask for, at worst; a lane reads `words` words next to each other, and
 * `lanes` of them are served at once. */
static int passes(int stride, int words, int lanes)
{
    int most = 0;
    for (int bank = 0; bank < 32; bank++) {
        int n = 0;
        for (int lane = 0; lane < lanes; lane++)
            for (int w = 0; w < words; w++)
                n += (lane * stride + w) % 32 == bank;
        most = n > most ? n : most;
    }
    return most;
}

static void strides(void)
{
    int odd_free = 0, even_free = 0, wide_free = 0, wide_other = 0;
    for (int stride = 1; stride <= 64; stride++) {
        if (stride % 2)
            odd_free += passes(stride, 1, 32) == 1;
        else
            even_free += passes(stride, 1, 32) == 1;
        if (stride % 2 == 0 && stride / 2 % 2)
            wide_free += passes(stride, 2, 16) == 1;
        else if (stride % 2 == 0)
            wide_other += passes(stride, 2, 16) == 1;
    }
    printf("odd_free %d of 32\neven_free %d\nwide_free %d of 16\nwide_other %d\n", odd_free, even_free,
           wide_free, wide_other);
}

/* One step of decoding for `tokens` new tokens after 131072: operations a byte. Returns the bytes of MSA. */
static double decoding(int tokens)
{
    const double n = 131072, kept = 2048, kv = 4 * 4 * 128; /* bytes of K and V of a token */
    const double dense_flop = tokens * 4.0 * 64 * 128 * n, dense_bytes = kv * n;
    const double flop = tokens * (2.0 * 4 * 128 * n + 4.0 * 64 * 128 * kept),
                 bytes = 2 * 128 * n + tokens * kv * kept;
    printf("dense_%d %.0f\nmsa_%d %.1f\n", tokens, dense_flop / dense_bytes, tokens, flop / bytes);
    return bytes;
}

int main(void)
{
    const double flop = 2.0 * 64 * 128,
                 bytes = 2.0 * 2 * 64 * 128 + 2.0 * 2 * 4 * 128; /* of a token: N + 1 times; Q, O, K, V */
    printf("bytes_a_token %.0f\ntokens %.0f\n", bytes, ceil(295 * bytes / flop - 1));
    const double one = decoding(1);
    printf("together %.2f\n", decoding(4) / one);
    strides();
    printf("in_flight %.0f\nper_sm %.0f\n", rate_h800 * 600 / clock / 1e3, rate_h800 * 600 / clock / 132);
    printf("h200 %.2f\n", rate_h200 / rate_h800);
    return 0;
}
