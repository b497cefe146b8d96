/**
 * @file sums.h
 * @brief LABEL.sha256: the files of a result, as sha256sum(1) writes and checks them.
 *
 * In lines that sha256sum passes over, "# NAME", it also names files that earlier results of that label left
 * here and this one did not write. So such a file tells what in a directory is the program's own.
 */
#ifndef IO_SUMS_H
#define IO_SUMS_H

#include <stdbool.h>

/** The text of a file of sums in the directory; free() it. NULL where there is none, or it is none, and then
 *  errno is 0; or where it could not be read. */
char *sums_read(int dir, const char *file);
/** The next name in such a text, which is changed; *rest begins as the text. NULL after the last. */
char *sums_next(char **rest);
/** Whether the name is a file of sums in the directory, or in one. errno is 0 unless some could not be read. */
bool sums_own(int dir, const char *name);

#endif
