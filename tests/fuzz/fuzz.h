/**
 * @file fuzz.h
 * @brief What the fuzz targets share: the readers take a path, so each input becomes a file first.
 */
#ifndef MSA_FUZZ_H
#define MSA_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/** The entry point that libFuzzer calls. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/** A file that holds this input until the next call. */
const char *fuzz_file(const uint8_t *data, size_t bytes);

/** A name beside it for a copy that the target writes itself. */
const char *fuzz_copy(void);

/** Ends the run as a finding unless `ok`. */
void fuzz_demand(int ok, const char *what, const char *found);

#endif
