/**
 * @file scratch.h
 * @brief A directory of its own for each test program that touches files; it goes when the program ends.
 */
#ifndef MSA_SCRATCH_H
#define MSA_SCRATCH_H

#include <stdbool.h>
#include <stddef.h>

/** The path of `name` in the scratch directory. Valid until the eighth call after this one. */
const char *scratch(const char *name);

/** Makes the file hold exactly these bytes; ends the program if that fails. */
void scratch_put(const char *path, const void *data, size_t bytes);

/** Whether the file holds exactly these bytes. */
bool scratch_holds(const char *path, const void *data, size_t bytes);

/** How many files and directories lie directly in the scratch directory. */
int scratch_count(void);

/** Passes ok on; if it is false, remarks on the error. */
bool scratch_no_error(bool ok, const char *err);

/** Whether `err` is one line that begins with the path and contains `word`; remarks on it if not. */
bool scratch_one_line(const char *err, const char *path, const char *word);

#endif
