#pragma once
/*
 * programs — finds the other programs: beside this one, where the build leaves them, then in PATH.
 */
#include <limits.h>

/* Writes the absolute path. 0 or -ENOENT. */
int program_find(const char *name, char out[PATH_MAX]);
