#pragma once
/*
 * picture_dir — the directory of the pictures: names, writes that are whole or not there, its id.
 *
 *     <dir>/.drawbar-store                            the id: 32 hex digits and a line end
 *     <dir>/<YYYYMMDDHH>/<job>.<epoch>.<grant>.<i>    a picture in its shard: the hour, UTC, of the
 *                                                     job id; epoch is 8 hex digits
 *     .<16 hex digits>.tmp                            being written, in either place
 *
 * A file is written under a temporary name, made durable and then linked to its own name, so a name
 * is never overwritten and never holds half a picture, whatever is killed and whoever else writes.
 * Paths are printed from parsed ids only. Several processes may share the directory, and several
 * threads one object: it does not change once it is open. Every call may block.
 */
#include "proto/job.h"

enum { PICTURE_NAME_MAX = 64, PICTURE_SHARD_MAX = 16, PICTURE_DIR_ID = 32 };

/* What a file's name says: the picture `index` of one attempt. */
struct picture_name {
    struct lease lease;
    uint8_t index;
};
void picture_name_print(const struct picture_name *name, char out[PICTURE_NAME_MAX]);
/* False: not exactly what picture_name_print() prints. */
bool picture_name_parse(const char *text, struct picture_name *out);
/* The name of the shard that holds the job's pictures. */
void picture_shard_print(const struct job_id *job, char out[PICTURE_SHARD_MAX]);
/* True for the name of a file being written, or left behind by a writer that was killed. */
bool picture_name_is_temporary(const char *text);

struct picture_dir;

/* Opens the directory, makes it if it is absent (its parent must be there), makes or reads the id.
 * 0; -EINVAL: the id file is damaged; -errno. Logged: what to do. */
int picture_dir_open(struct picture_dir **out, const char *path);
void picture_dir_destroy(struct picture_dir **self_p);
const char *picture_dir_id(const struct picture_dir *self); /* 32 hex digits */
int picture_dir_fd(const struct picture_dir *self);         /* for those that walk it; borrowed */

enum picture_put {
    PICTURE_STORED, /* durable under its name */
    PICTURE_SAME,   /* was there before, with the same bytes; durable */
    PICTURE_OTHER,  /* was there before, with other bytes, and is left alone */
    PICTURE_PUT_COUNT,
};
/* Writes one picture. 0 and *verdict, or -errno (-ENOSPC, -EDQUOT: no space) and nothing was kept.
 */
int picture_dir_put(const struct picture_dir *self, const struct picture_name *name,
                    const void *bytes, size_t length, enum picture_put *verdict);
/* Reads one picture into malloc'ed memory that becomes the caller's. 0, -ENOENT, or -EIO (logged).
 */
int picture_dir_get(const struct picture_dir *self, const struct picture_name *name, void **bytes,
                    size_t *length);
/* True if less than free_mib_min MiB, or than LIMIT_STORE_FREE_PERCENT of the file system, are free
 * to us, or if it cannot be told (logged). */
bool picture_dir_is_full(const struct picture_dir *self, uint32_t free_mib_min);
