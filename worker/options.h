#pragma once
/*
 * options — the settings of drawbar-worker, checked.
 */
#include "common/config.h"
#include "common/limits.h"

struct options {
    struct config_common common;
    const char *redis;
    char name[LIMIT_WORKER_NAME + 1]; /* letters, digits, '.', '-', '_' */
    struct string_list attach;
    const char *start; /* NULL: nothing is started */
    const char *driver;
    const char *model; /* NULL: the instances tell it */
    int64_t n_start;
    int64_t base_port;
    int64_t stuck_ms, opaque_ms;
    int64_t startup_s;
    char state_dir[4096]; /* of this worker; exists and is writable */
};

/* Reads and checks the settings. 0: *config is the caller's and must outlive *out. CONFIG_EXIT:
 * --help or --version was answered. -EINVAL: a mistake was printed. */
int options_load(struct options *out, struct config **config, int argc, char **argv);
