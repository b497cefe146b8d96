/**
 * @file json.h
 * @brief JSON from files. Only in builds with jansson.
 */
#ifndef MSA_JSON_H
#define MSA_JSON_H

#include <jansson.h>

#include "io.h"

/** Bytes of a text: a header of 150,000 tensors; the format of safetensors allows 100 MB, which take a minute
 *  to parse. */
#define IO_MAX_JSON (1 << 24)

/** The object that a text spells; for json_decref(). NULL where it is something else, too large, or has a key
 *  twice; `what` begins the words about it ("safetensors header: "). */
json_t *io_json_parse(const char *path, const char *what, const char *text, size_t bytes, io_error err);
/** The same of a whole file. */
json_t *io_json_read(const char *path, io_error err);

/** Between the two, what is built with jansson is whole if no memory was lacking. */
void io_json_begin(void);
bool io_json_whole(void);

#endif
