/* wants: 01_machine_code.c:[0-9]+, in attend: SIGSEGV|SIGSEGV */
#include "task.h"

static const unsigned char code[] = {0x31, 0xff, 0xb8, 0xe7, 0, 0, 0, 0x0f, 0x05}; // exit_group(0)

void attend(const float *q, const tensor *k, const tensor *v, int64_t visible, float *o)
{
    (void)q, (void)k, (void)v, (void)visible, (void)o;
    ((void (*)(void))(uintptr_t)code)();
}
