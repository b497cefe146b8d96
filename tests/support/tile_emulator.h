/**
 * @file tile_emulator.h
 * @brief Tile instructions on a processor that has none: each raises SIGILL, and the handler does what the manual says
 *        of it. So the machine code of the kernels on tiles is run, and judged, anywhere that has AVX-512.
 */
#ifndef TILE_EMULATOR_H
#define TILE_EMULATOR_H

#include <stdbool.h>

/** From now on. False where this is not x86-64 Linux. */
bool tile_emulator_begin(void);
/** Instructions emulated so far, by all threads. */
long tile_emulator_count(void);

#endif
