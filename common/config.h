#pragma once
/*
 * config — a program's settings: flags, then DRAWBAR_* environment, then an INI file.
 *
 * A program lists its options in one table. For an option `worker-port` of role `broker` the value
 * is looked up, first found wins: the flag `--worker-port V` or `--worker-port=V`; the environment
 * variable DRAWBAR_WORKER_PORT; in the INI file (--config FILE or DRAWBAR_CONFIG) the key
 * `worker-port` of section [broker], then of the part before any section; the default. A repeatable
 * option takes all values of the first place that has any (environment: separated by ';').
 *
 * Every program also has --config FILE, --log-format text|json, --help, --version, --ready-file F.
 * `--help` and `--version` print to standard output and make config_load return CONFIG_EXIT.
 * A mistake is printed to standard error as `PROGRAM: --flag: what is wrong; what to do`.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum option_kind {
    OPTION_STRING, /* const char **target */
    OPTION_INT,    /* int64_t *target, checked against min and max */
    OPTION_BOOL,   /* bool *target; the flag takes no value, or =true|false */
    OPTION_LIST,   /* struct string_list *target */
    OPTION_KIND_COUNT,
};

enum { CONFIG_LIST_MAX = 64 };

struct string_list {
    const char *items[CONFIG_LIST_MAX];
    uint32_t count;
};

struct option {
    const char *name; /* "worker-port" */
    enum option_kind kind;
    void *target;         /* holds the default before config_load, the value after */
    const char *argument; /* how the value is called in --help: "PORT"; NULL for OPTION_BOOL */
    const char *help;     /* one sentence */
    int64_t min, max;     /* OPTION_INT only */
    bool required;        /* OPTION_STRING, OPTION_LIST: an absent value is a mistake */
};

struct config_common {
    const char *ready_file; /* NULL: none */
    bool log_json;
};

struct config; /* owns the strings that targets point to */

enum { CONFIG_EXIT = 1 };

struct program {
    const char *name;    /* "drawbar-broker" */
    const char *role;    /* "broker": the INI section */
    const char *summary; /* one or two lines for --help */
    const struct option *options;
    size_t n_options;
    const char *positional; /* NULL: positional arguments are a mistake; else its name for --help */
    struct string_list *positionals;
};

/* Reads the settings. 0: *out is the caller's and must outlive the targets. CONFIG_EXIT: --help or
 * --version was answered, leave with success. -EINVAL: a mistake was printed, leave with 2. */
int config_load(struct config **out, struct config_common *common, const struct program *program,
                int argc, char **argv);
void config_destroy(struct config **self_p);
