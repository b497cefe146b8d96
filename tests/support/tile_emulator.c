#define _GNU_SOURCE
#include "tile_emulator.h"

#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#if defined __x86_64__ && defined __linux__
#include <ucontext.h>

static long done;

/* What a thread's tile registers hold, and how they are configured: all 16 rows of 64 bytes, or not at all. */
static _Thread_local struct {
    uint32_t tile[8][16][16];
    bool configured;
} state;

/* ---- Arithmetic, as the manual's listings have it ------------------------------------------------------------- */

/* Subnormal numbers are 0, whether read or made. */
static float flushed(float x)
{
    return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x;
}

/* The first or second numbers of a tile's pairs. */
static void take_halves(int tile, int which, float x[16][16])
{
    for (int row = 0; row < 16; row++)
        for (int n = 0; n < 16; n++) {
            const uint32_t pair = state.tile[tile][row][n], bits = which ? pair & 0xffff0000u : pair << 16;
            memcpy(&x[row][n], &bits, sizeof bits);
            x[row][n] = flushed(x[row][n]);
        }
}

/* First and second numbers are summed apart. A product of two bf16 is exact, so that it is fused is not seen. */
static void multiply_halves(int c, int a, int b)
{
    float left[16][16], right[16][16], sum[2][16][16] = {0};
    for (int which = 0; which < 2; which++) {
        take_halves(a, which, left);
        take_halves(b, which, right);
        for (int m = 0; m < 16; m++)
            for (int k = 0; k < 16; k++)
                for (int n = 0; n < 16; n++)
                    sum[which][m][n] = flushed(sum[which][m][n] + left[m][k] * right[k][n]);
    }
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++) {
            float old;
            memcpy(&old, &state.tile[c][m][n], sizeof old);
            old = flushed(flushed(old) + flushed(sum[0][m][n] + sum[1][m][n]));
            memcpy(&state.tile[c][m][n], &old, sizeof old);
        }
}

static void multiply_bytes(int c, int a, int b)
{
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++)
            for (int k = 0; k < 16; k++)
                for (int at = 0; at < 4; at++) {
                    int8_t x, y;
                    memcpy(&x, (const char *)&state.tile[a][m][k] + at, 1);
                    memcpy(&y, (const char *)&state.tile[b][k][n] + at, 1);
                    state.tile[c][m][n] += (uint32_t)(x * y);
                }
}

/* ---- Decoding ---------------------------------------------------------------------------------------------------- */

/* A three-byte VEX prefix, the opcode, and what its operands are. */
typedef struct instruction {
    int prefix, opcode; /* prefix: 0 none, 1 66, 2 F3, 3 F2 */
    int reg, rm, vvvv;
    bool memory;
    char *address;
    int64_t stride; /* of a tile's rows */
    int length;
} instruction;

static int64_t general(const ucontext_t *u, int number)
{
    static const int at[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                               REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    return u->uc_mcontext.gregs[at[number]];
}

static void decode_memory(instruction *x, const ucontext_t *u, const uint8_t *code, int at)
{
    const int mode = code[at - 1] >> 6;
    int base = x->rm, more = mode == 1 ? 1 : mode == 2 ? 4 : 0;
    int64_t address = 0, offset = 0;
    if (x->rm == 4) {
        const int scale = code[at] >> 6, index = (code[at] >> 3 & 7) | (~code[1] >> 3 & 8);
        base = code[at++] & 7;
        x->stride = index == 4 ? 0 : general(u, index) << scale;
    }
    const bool none = mode == 0 && base == 5; /* no base: the next instruction's address, or nothing */
    more = none ? 4 : more;
    if (more == 1)
        offset = (int8_t)code[at];
    else if (more == 4) {
        int32_t wide;
        memcpy(&wide, code + at, sizeof wide);
        offset = wide;
    }
    x->length = at + more;
    if (!none)
        address = general(u, base | (~code[1] >> 2 & 8));
    else if (x->rm != 4)
        address = u->uc_mcontext.gregs[REG_RIP] + x->length;
    x->address = (char *)(address + offset);
}

static bool decode(instruction *x, const ucontext_t *u)
{
    const uint8_t *code = (const uint8_t *)u->uc_mcontext.gregs[REG_RIP];
    if (code[0] != 0xc4 || (code[1] & 31) != 2)
        return false;
    *x = (instruction){.prefix = code[2] & 3,
                       .opcode = code[3],
                       .reg = code[4] >> 3 & 7,
                       .rm = code[4] & 7,
                       .vvvv = ~code[2] >> 3 & 15,
                       .memory = code[4] >> 6 != 3,
                       .length = 5};
    if (x->memory)
        decode_memory(x, u, code, 5);
    return true;
}

/* ---- What each does ----------------------------------------------------------------------------------------------- */

static void load(int tile, const char *from, int64_t stride)
{
    for (int row = 0; row < 16; row++)
        memcpy(state.tile[tile][row], from + row * stride, 64);
}

static void store(int tile, char *to, int64_t stride)
{
    for (int row = 0; row < 16; row++)
        memcpy(to + row * stride, state.tile[tile][row], 64);
}

/* Palette 1, from row 0 on, eight tiles of 16 rows of 64 bytes; anything else is not what our kernels ask for. */
static bool configure(const char *from)
{
    uint8_t expected[64] = {1};
    for (int n = 0; n < 8; n++) {
        expected[16 + 2 * n] = 64;
        expected[48 + n] = 16;
    }
    state.configured = memcmp(from, expected, sizeof expected) == 0;
    memset(state.tile, 0, sizeof state.tile);
    return state.configured;
}

static bool perform(const instruction *x)
{
    if (x->opcode == 0x49 && x->prefix == 0 && x->memory)
        return configure(x->address);
    if (!state.configured)
        return false;
    if (x->opcode == 0x49 && x->prefix == 0)
        state.configured = false;
    else if (x->opcode == 0x49 && x->prefix == 3 && !x->memory)
        memset(state.tile[x->reg], 0, sizeof state.tile[x->reg]);
    else if (x->opcode == 0x4b && x->prefix == 3 && x->memory)
        load(x->reg, x->address, x->stride);
    else if (x->opcode == 0x4b && x->prefix == 2 && x->memory)
        store(x->reg, x->address, x->stride);
    else if (x->opcode == 0x5c && x->prefix == 2 && !x->memory)
        multiply_halves(x->reg, x->rm, x->vvvv);
    else if (x->opcode == 0x5e && x->prefix == 3 && !x->memory)
        multiply_bytes(x->reg, x->rm, x->vvvv);
    else
        return false;
    return true;
}

static void illegal(int signal_number, siginfo_t *info, void *context)
{
    ucontext_t *u = context;
    instruction x;
    (void)info;
    if (!decode(&x, u) || !perform(&x)) {
        static const char text[] = "tile_emulator: an instruction that it does not know, or tiles not configured\n";
        (void)!write(STDERR_FILENO, text, sizeof text - 1);
        signal(signal_number, SIG_DFL);
        return; /* and so again, to end here */
    }
    __atomic_fetch_add(&done, 1, __ATOMIC_RELAXED);
    u->uc_mcontext.gregs[REG_RIP] += x.length;
}

bool tile_emulator_begin(void)
{
    struct sigaction action = {.sa_sigaction = illegal, .sa_flags = SA_SIGINFO};
    return sigaction(SIGILL, &action, NULL) == 0;
}

long tile_emulator_count(void)
{
    return __atomic_load_n(&done, __ATOMIC_RELAXED);
}

#else

bool tile_emulator_begin(void)
{
    return false;
}

long tile_emulator_count(void)
{
    return 0;
}

#endif
