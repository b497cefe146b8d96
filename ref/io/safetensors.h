/**
 * @file safetensors.h
 * @brief What reading and writing of safetensors share. Only in builds with jansson.
 */
#ifndef MSA_SAFETENSORS_H
#define MSA_SAFETENSORS_H

#include "io.h"

#define ST_METADATA "__metadata__"
#define ST_LENGTH_BYTES 8
#define ST_MAX_NAME 200 /* keeps every error line whole */

/* Whether all of a float32 tensor's elements are finite; the error names it. */
bool st_check_finite(const char *path, const st_tensor *t, size_t count, io_error err);

#endif
