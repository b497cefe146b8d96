/* Where calls come from: of a thousand that one loop makes, the first and the last tell what all would. */
#pragma once

/* Before the first call is noted, outside of what is watched. */
void places_begin(void);
/* The n-th call of that kind is being made, on this thread. */
void places_note(int kind, long n);
/* A line for every chain of callers: its kind, the numbers of its first and last calls. */
void places_write(const char *file, const char *const *kinds);
