/**
 * @file tuning.h
 * @brief What `msa tune` measured on a device, in a file that later runs on that device take their parameters from.
 */
#ifndef MSA_TUNING_H
#define MSA_TUNING_H

#include <limits.h>

#include "../../cuda/host/msa_cuda.h"
#include "cli.h"

/** A parameter's value, and how long its trials took. */
typedef struct tuning_entry {
    int parameter, value;
    int begun;     /**< how often it was measured, or tried to be */
    double ms;     /**< 0: nobody knows yet */
    bool verified; /**< its results agreed with the reference before and after */
} tuning_entry;

#define TUNING_MAX (9 * MSA_N_TUNABLES) /* values that are tried, and what a file may hold */
typedef struct tuning {
    char device[128]; /**< as msa_about calls it */
    char build[80];   /**< the commit of the program that measured */
    int value[MSA_N_TUNABLES];
    int n;
    tuning_entry entry[2 * TUNING_MAX]; /**< a file's, and then others */
} tuning;

/** Whether this build reads and writes such files (it needs the JSON library jansson). */
bool tuning_possible(void);
/** The file of a device where none is named: $XDG_CACHE_HOME/msa/tuned-DEVICE.json, ~/.cache by default. Makes the
 *  cache's directory. False: neither says where. */
bool tuning_path(const msa_device *device, char path[PATH_MAX]);
/** Reads a file, which has to be of this device. */
bool tuning_read(const char *path, const msa_device *device, tuning *t, io_error err);
/** The same without an entry, of this build: every value is the preset. */
void tuning_begin(const msa_device *device, tuning *t);
/** Writes it, atomically. Returns the exit status. */
int tuning_write(const char *command, const char *path, const tuning *t);

/** Gives the device of a back end what was kept for it: the file that MSA_TUNING names ("": none), else, of a GPU, the one
 *  of tuning_path(), if there is one. A file that cannot be used is a line and exit status 2 where it was named, else a
 *  line, and the presets stay. */
int tuning_use(const char *command, const char *backend);

#endif
