#pragma once
/*
 * picture — where the pictures of a job go, and how they get there: whole, by rename, or not at
 * all.
 */
#include "cli/client.h"

enum { PICTURE_PATH = 4096 };

/* The file of picture `index` of `n`: fox.png, or of several fox-1.png, fox-2.png ...; without a
 * wish ID.png. 0, or -ENAMETOOLONG. Pure. */
int picture_path(char out[PICTURE_PATH], const char *wish, const struct job *job, uint32_t index,
                 const char *extension);
/* "png", "jpeg" or "webp" by the end of a name; NULL if it tells none. Pure. */
const char *picture_format_of(const char *path);
/* Checks, before a job is made, that the wish can be fulfilled. 0, or EXIT_USAGE (told). */
int picture_check(struct client *client, const char *wish);
/* Downloads and saves all pictures of a job that succeeded, and tells one line for each. `wish` is
 * a path, "-" for standard output, or NULL. 0, or an exit status (told). */
int picture_save(struct client *client, const struct job *job, const char *wish);
