/**
 * @file checkpoint.h
 * @brief A checkpoint of MiniMax-M3 as it is published: config.json, shards of safetensors, and the attention
 *        layers in them.
 *
 * Only headers are read until a layer is asked for, and of that layer a tile of rows at a time. Nothing of the
 * files is trusted: sizes come from config.json, every tensor has to have them, and its bytes have to be in the
 * file. A function that returns false leaves one line in `err`, as in io.h.
 */
#ifndef MSA_CHECKPOINT_H
#define MSA_CHECKPOINT_H

#include "../io/io.h"
#include "../msa_layer.h"

/* ---- config.json (config.c) ----------------------------------------------------------------------- */

#define CHECKPOINT_MAX_LAYERS 4096

typedef struct checkpoint_config {
    char model_type[64];
    int d_model, n_layers, n_heads, n_kv_heads, d_head, d_index, block, topk;
    int rot;       /**< rotated channels of a main head */
    char rule[80]; /**< which field says so */
    double theta, eps;
    bool sparse[CHECKPOINT_MAX_LAYERS];
    io_error trouble; /**< why its sparse layers are none that MSA computes; empty: they are */
} checkpoint_config;

bool checkpoint_read_config(const char *path, checkpoint_config *c, io_error err);

/* ---- Tensors by name (directory.c) ---------------------------------------------------------------- */

/** One file of the checkpoint; its header is read when the first tensor of it is asked for. */
typedef struct checkpoint_shard {
    char *path;
    bool listed;
    st_listing tensors; /**< by name */
} checkpoint_shard;

typedef struct checkpoint_name {
    const char *name;
    int shard;
} checkpoint_name;

typedef struct checkpoint {
    const char *dir; /**< as the caller named it */
    checkpoint_config config;
    int n_names, n_shards;
    checkpoint_name *name; /**< by name */
    checkpoint_shard *shard;
    void *index; /**< the JSON that the names are in, or NULL */
} checkpoint;

/** Reads config.json and which tensors there are, of model.safetensors.index.json or model.safetensors. */
bool checkpoint_open(const char *dir, checkpoint *c, io_error err);
void checkpoint_close(checkpoint *c);
/** Number of the first name that is not before this one; the names that begin with it follow from there. */
int checkpoint_lower(const checkpoint *c, const char *name);
/** Whether there is a tensor of that name. */
bool checkpoint_has(const checkpoint *c, const char *name);
/** Where the tensor of a name lies and in which file; fails where the shard is missing or does not hold it. */
const st_place *checkpoint_find(checkpoint *c, const char *name, const char **path, io_error err);

/* ---- One layer (names.c) -------------------------------------------------------------------------- */

#define CHECKPOINT_MX 32 /* columns that share a scale of MXFP8 */

/** A matrix of [rows, cols], stored row by row: out of its product with x [n, cols] comes [n, rows]. A norm's gain is
 *  one row. */
typedef struct checkpoint_weight {
    char name[256];
    const char *path;
    int64_t rows, cols;
    io_element element;   /**< IO_N_ELEMENTS: MXFP8, E4M3 with a power of two for 32 columns */
    size_t at, scales_at; /**< bytes from the beginning of their files */
    const char *scales_path;
} checkpoint_weight;

typedef enum checkpoint_part {
    CHECKPOINT_INPUT_NORM,
    CHECKPOINT_Q,
    CHECKPOINT_K,
    CHECKPOINT_V,
    CHECKPOINT_O,
    CHECKPOINT_Q_NORM,
    CHECKPOINT_K_NORM,
    CHECKPOINT_INDEX_Q, /**< from here on of sparse layers only */
    CHECKPOINT_INDEX_K,
    CHECKPOINT_INDEX_Q_NORM,
    CHECKPOINT_INDEX_K_NORM,
    CHECKPOINT_N_PARTS
} checkpoint_part;

typedef struct checkpoint_layer {
    bool sparse;
    checkpoint_weight weight[CHECKPOINT_N_PARTS];
} checkpoint_layer;

/** "language_model.model.layers.": what the names of all layers begin with. NULL where there is no such layer. */
const char *checkpoint_prefix(const checkpoint *c, int layer, io_error err);
/** Finds the weights of a layer, under whichever names, and checks their types and shapes. The input norm only
 *  where it is asked for. */
bool checkpoint_find_layer(checkpoint *c, int layer, bool input_norm, checkpoint_layer *out, io_error err);

/* ---- Its weights (weights.c) ---------------------------------------------------------------------- */

/** A gain: one row as floats, [cols]. */
bool checkpoint_read_gain(const checkpoint_weight *w, float *gain, io_error err);
/** y [n, rows] = x [n, cols] W^T, W read and converted a tile of rows at a time. */
bool checkpoint_project(const checkpoint_weight *w, int64_t n, const float *x, float *y, io_error err);

/* ---- Rotation (rotation.c) ------------------------------------------------------------------------ */

/** Pairs (i, i + rot/2) turn by pos theta^(-2i/rot). Models hold these angles in float32, an ulp of which is 2^-12
 *  for positions around 4096: `exact` leaves that rounding out. */
typedef struct checkpoint_rotation {
    int rot;
    double theta;
    bool exact;
} checkpoint_rotation;

/** Turns heads x [n,heads,d] in place. Of heads narrower than rot the table of angles is cut off at d, as in
 *  transformers: the two channels of a pair (i, i + d/2) are then turned by different angles, which is no
 *  rotation. @param pos [n] */
msa_status checkpoint_turn(const checkpoint_rotation *r, int64_t n, int heads, int d, const int32_t *pos,
                           float *x);

#endif
