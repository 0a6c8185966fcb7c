#include "common/config.h"
#include "common/config_help.h"
#include "common/scope.h"
#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where a value stands; a smaller number beats a larger one. */
enum source {
    SOURCE_FLAG,
    SOURCE_ENVIRONMENT,
    SOURCE_SECTION, /* [role] of the INI file */
    SOURCE_FILE,    /* before any section */
    SOURCE_COUNT,
};

struct given {
    enum source source;
    const struct option *option;
    const char *value;
};

enum { GIVEN_MAX = 1024, TEXT_MAX = 256 };

struct config {
    char **strings;
    size_t n_strings;
};

/* The options that every program has; the first ones have no meaning in a file. */
enum { COMMON_HELP, COMMON_VERSION, COMMON_CONFIG, COMMON_LOG_FORMAT, COMMON_READY, COMMON_COUNT };

struct loader {
    const struct program *program;
    struct config *config;
    struct given given[GIVEN_MAX];
    size_t n_given;
    struct option common[COMMON_COUNT];
    const char *path;
    const char *log_format;
    const char *ready_file;
    bool help;
    bool version;
    bool failed; /* a mistake was printed inside libinih's callback */
    bool cut;    /* a line of the file did not fit libinih's buffer */
};

/* -- telling mistakes -- */

/* Prints `PROGRAM: where: ...` and returns -EINVAL. */
__attribute__((format(printf, 3, 4))) static int
mistake(const struct loader *self, const char *where, const char *format, ...)
{
    va_list arguments;
    fprintf(stderr, "%s: %s: ", self->program->name, where);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\n");
    return -EINVAL;
}

static void
environment_name(char out[TEXT_MAX], const char *name)
{
    int length = snprintf(out, TEXT_MAX, "DRAWBAR_%s", name);
    for (int i = 0; i < length && i < TEXT_MAX; i++) {
        int upper = toupper((unsigned char)out[i]);
        out[i] = (char)(upper == '-' ? '_' : upper);
    }
}

static void
where_text(char out[TEXT_MAX], const struct loader *self, const struct given *given)
{
    const char *name = given->option->name;
    switch (given->source) {
    case SOURCE_FLAG:
        snprintf(out, TEXT_MAX, "--%s", name);
        break;
    case SOURCE_ENVIRONMENT:
        environment_name(out, name);
        break;
    case SOURCE_SECTION:
        snprintf(out, TEXT_MAX, "%.150s: %s in [%s]", self->path, name, self->program->role);
        break;
    case SOURCE_FILE:
        snprintf(out, TEXT_MAX, "%.150s: %s", self->path, name);
        break;
    case SOURCE_COUNT:
        assert(false);
    }
}

/* -- the options by name -- */

static size_t
n_options(const struct loader *self)
{
    return self->program->n_options + COMMON_COUNT;
}

static const struct option *
option_at(const struct loader *self, size_t i)
{
    size_t n_own = self->program->n_options;
    return i < n_own ? &self->program->options[i] : &self->common[i - n_own];
}

/* `name` of any length ends at `length`; underscores are as good as hyphens. NULL: unknown. */
static const struct option *
option_find(const struct loader *self, const char *name, size_t length)
{
    for (size_t i = 0; i < n_options(self); i++) {
        const char *known = option_at(self, i)->name;
        size_t same = 0;
        while (same < length &&
               (known[same] == name[same] || (known[same] == '-' && name[same] == '_'))) {
            same++;
        }
        if (same == length && known[same] == '\0') {
            return option_at(self, i);
        }
    }
    return NULL;
}

/* The known name most like this one, or NULL if none is like it. */
static const char *
nearest(const struct loader *self, const char *name)
{
    const char *best = NULL;
    uint32_t best_distance = strlen(name) < 6 ? 2 : 4;
    for (size_t i = 0; i < n_options(self); i++) {
        uint32_t distance = config_help_distance(name, option_at(self, i)->name, best_distance);
        if (distance < best_distance) {
            best_distance = distance;
            best = option_at(self, i)->name;
        }
    }
    return best;
}

/* -- gathering what is given -- */

static char *
keep(struct config *config, const char *text)
{
    char **strings = realloc(config->strings, (config->n_strings + 1) * sizeof *strings);
    char *copy = strdup(text);
    if (strings == NULL || copy == NULL) {
        abort(); /* a process that cannot even read its settings has nothing to save */
    }
    strings[config->n_strings] = copy;
    config->strings = strings;
    config->n_strings++;
    return copy;
}

static int
give(struct loader *self, enum source source, const struct option *option, const char *value)
{
    if (self->n_given == GIVEN_MAX) {
        return mistake(self, option->name, "more than %d settings are given; give fewer",
                       GIVEN_MAX);
    }
    self->given[self->n_given] =
        (struct given){ .source = source, .option = option, .value = keep(self->config, value) };
    self->n_given++;
    return 0;
}

/* Reads one flag; *i_p moves on if the value is the next argument. */
static int
gather_flag(struct loader *self, int argc, char **argv, int *i_p)
{
    char where[TEXT_MAX];
    const char *argument = argv[*i_p];
    size_t dashes = argument[1] == '-' ? 2 : 1;
    const char *name = argument + dashes;
    size_t length = strcspn(name, "=");
    const char *value = name[length] == '=' ? name + length + 1 : NULL;
    const struct option *option = dashes == 2 ? option_find(self, name, length) : NULL;
    snprintf(where, sizeof where, "%.*s", (int)(dashes + length), argument);
    if (option == NULL) {
        char bare[TEXT_MAX];
        snprintf(bare, sizeof bare, "%.*s", (int)length, name);
        const char *like = nearest(self, bare);
        return like != NULL
                   ? mistake(self, where, "there is no such option; did you mean --%s?", like)
                   : mistake(self, where, "there is no such option; see %s --help",
                             self->program->name);
    }
    if (value == NULL && option->kind == OPTION_BOOL) {
        value = "true";
    } else if (value == NULL) {
        const char *next = *i_p + 1 < argc ? argv[*i_p + 1] : "--";
        if (strncmp(next, "--", 2) == 0) {
            return mistake(self, where, "the value is missing; write --%s %s", option->name,
                           option->argument);
        }
        value = next;
        (*i_p)++;
    }
    return give(self, SOURCE_FLAG, option, value);
}

static int
gather_positional(struct loader *self, const char *argument)
{
    struct string_list *list = self->program->positionals;
    if (self->program->positional == NULL) {
        return mistake(self, argument, "not expected here; options start with --, see %s --help",
                       self->program->name);
    }
    if (list->count == CONFIG_LIST_MAX) {
        return mistake(self, self->program->positional, "more than %d are given; give fewer",
                       CONFIG_LIST_MAX);
    }
    list->items[list->count] = keep(self->config, argument);
    list->count++;
    return 0;
}

static int
gather_flags(struct loader *self, int argc, char **argv)
{
    bool options_end = false;
    int rc = 0;
    for (int i = 1; rc == 0 && i < argc; i++) {
        if (!options_end && strcmp(argv[i], "--") == 0) {
            options_end = true;
        } else if (!options_end && argv[i][0] == '-' && argv[i][1] != '\0') {
            rc = gather_flag(self, argc, argv, &i);
        } else {
            rc = gather_positional(self, argv[i]);
        }
    }
    return rc;
}

/* A set but empty variable counts as absent: compose files and unit files write such. */
static int
gather_environment(struct loader *self)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < n_options(self); i++) {
        const struct option *option = option_at(self, i);
        bool flag_only =
            option == &self->common[COMMON_HELP] || option == &self->common[COMMON_VERSION];
        char name[TEXT_MAX];
        environment_name(name, option->name);
        const char *value = flag_only ? NULL : getenv(name);
        if (value == NULL || value[0] == '\0') {
            continue;
        }
        if (option->kind != OPTION_LIST) {
            rc = give(self, SOURCE_ENVIRONMENT, option, value);
            continue;
        }
        char *items = keep(self->config, value);
        char *rest = items;
        for (char *item = strsep(&rest, ";"); rc == 0 && item != NULL; item = strsep(&rest, ";")) {
            rc = item[0] == '\0' ? 0 : give(self, SOURCE_ENVIRONMENT, option, item);
        }
    }
    return rc;
}

/* libinih's callback: 0 would be reported as a bad line, so mistakes are kept in self->failed. */
static int
on_ini_pair(void *context, const char *section, const char *name, const char *value)
{
    struct loader *self = context;
    bool ours = strcmp(section, self->program->role) == 0;
    const struct option *option = option_find(self, name, strlen(name));
    char where[TEXT_MAX];
    if (self->failed || (section[0] != '\0' && !ours)) {
        return 1;
    }
    if (option != NULL && option >= self->common && option < self->common + COMMON_LOG_FORMAT) {
        option = NULL;
    }
    if (option == NULL && ours) {
        const char *like = nearest(self, name);
        snprintf(where, sizeof where, "%.150s: %.60s in [%s]", self->path, name, section);
        mistake(self, where,
                like != NULL ? "there is no such key; did you mean %s?"
                             : "there is no such key; take it out or see --help%s",
                like != NULL ? like : "");
        self->failed = true;
    }
    if (option == NULL) {
        return 1; /* before any section: another program's */
    }
    enum source source = ours ? SOURCE_SECTION : SOURCE_FILE;
    for (size_t i = 0; option->kind != OPTION_LIST && i < self->n_given; i++) {
        if (self->given[i].option == option && self->given[i].source == source) {
            where_text(where, self, &self->given[i]);
            mistake(self, where,
                    "given twice; keep one (an indented line continues the key above)");
            self->failed = true;
            return 1;
        }
    }
    self->failed = give(self, source, option, value) != 0;
    return 1;
}

struct ini_reader {
    FILE *file;
    struct loader *loader;
};

/* fgets for libinih, which would take the rest of a long line for a line of its own. */
static char *
read_ini_line(char *out, int size, void *context)
{
    struct ini_reader *reader = context;
    char *line = fgets(out, size, reader->file);
    if (line != NULL && strlen(line) + 1 == (size_t)size && line[size - 2] != '\n') {
        reader->loader->cut = true;
    }
    return line;
}

static int
gather_file(struct loader *self)
{
    if (self->path == NULL) {
        return 0;
    }
    struct ini_reader reader = { .file = fopen(self->path, "re"), .loader = self };
    if (reader.file == NULL) {
        return mistake(self, "--config", "cannot open %s: %s; check the path and its mode",
                       self->path, strerror(errno));
    }
    int line = ini_parse_stream(read_ini_line, &reader, on_ini_pair, self);
    bool unread = ferror(reader.file) != 0;
    fclose(reader.file);
    if (unread) {
        return mistake(self, "--config", "cannot read %s; is it a file?", self->path);
    }
    if (self->cut) {
        return mistake(self, self->path,
                       "a line is too long; write long values as flags or "
                       "DRAWBAR_* variables");
    }
    if (self->failed) {
        return -EINVAL;
    }
    return line == 0
               ? 0
               : mistake(self, self->path, "line %d is neither [section] nor key = value", line);
}

/* -- applying it -- */

static int
apply_int(const struct loader *self, const struct given *given)
{
    const struct option *option = given->option;
    char where[TEXT_MAX];
    char *end = NULL;
    errno = 0;
    long long value = strtoll(given->value, &end, 10);
    bool number = end != given->value && *end == '\0' && !isspace((unsigned char)given->value[0]);
    if (!number || errno == ERANGE || value < option->min || value > option->max) {
        where_text(where, self, given);
        return mistake(self, where, "\"%s\" is %s; give a number from %" PRId64 " to %" PRId64,
                       given->value, number ? "out of range" : "not a whole number", option->min,
                       option->max);
    }
    *(int64_t *)option->target = value;
    return 0;
}

static int
apply_bool(const struct loader *self, const struct given *given)
{
    static const struct {
        const char *word;
        bool value;
    } words[] = { { "true", true }, { "false", false }, { "yes", true },
                  { "no", false },  { "1", true },      { "0", false } };
    char where[TEXT_MAX];
    for (size_t i = 0; i < ARRAY_LENGTH(words); i++) {
        if (strcasecmp(given->value, words[i].word) == 0) {
            *(bool *)given->option->target = words[i].value;
            return 0;
        }
    }
    where_text(where, self, given);
    return mistake(self, where, "\"%s\" is neither true nor false; write one of them",
                   given->value);
}

static int
apply_one(const struct loader *self, const struct given *given, bool first)
{
    struct string_list *list = given->option->target;
    char where[TEXT_MAX];
    switch (given->option->kind) {
    case OPTION_STRING:
        *(const char **)given->option->target = given->value;
        return 0;
    case OPTION_INT:
        return apply_int(self, given);
    case OPTION_BOOL:
        return apply_bool(self, given);
    case OPTION_LIST:
        list->count = first ? 0 : list->count;
        if (list->count == CONFIG_LIST_MAX) {
            where_text(where, self, given);
            return mistake(self, where, "more than %d values; give fewer", CONFIG_LIST_MAX);
        }
        list->items[list->count] = given->value;
        list->count++;
        return 0;
    case OPTION_KIND_COUNT:
        break;
    }
    assert(false);
    return -EINVAL;
}

/* Applies the values of the first place that has any; of several flags the last one wins. */
static int
apply(const struct loader *self, const struct option *option)
{
    enum source source = SOURCE_COUNT;
    bool first = true;
    int rc = 0;
    for (size_t i = 0; i < self->n_given; i++) {
        const struct given *given = &self->given[i];
        source = given->option == option && given->source < source ? given->source : source;
    }
    for (size_t i = 0; rc == 0 && i < self->n_given; i++) {
        if (self->given[i].option == option && self->given[i].source == source) {
            rc = apply_one(self, &self->given[i], first);
            first = false;
        }
    }
    if (rc != 0 || !option->required) {
        return rc;
    }
    const char *text = option->kind == OPTION_STRING ? *(const char **)option->target : NULL;
    const struct string_list *list = option->kind == OPTION_LIST ? option->target : NULL;
    if ((text == NULL || text[0] == '\0') && (list == NULL || list->count == 0)) {
        char flag[TEXT_MAX];
        char environment[TEXT_MAX];
        snprintf(flag, sizeof flag, "--%s", option->name);
        environment_name(environment, option->name);
        return mistake(self, flag, "is required; give --%s %s, set %s, or write %s in [%s]",
                       option->name, option->argument, environment, option->name,
                       self->program->role);
    }
    return 0;
}

/* -- all of it -- */

static void
loader_init(struct loader *self, const struct program *program, struct config *config)
{
    *self = (struct loader){ .program = program, .config = config, .log_format = "text" };
    self->common[COMMON_HELP] = (struct option){
        .name = "help", .kind = OPTION_BOOL, .target = &self->help, .help = "Print this page."
    };
    self->common[COMMON_VERSION] = (struct option){ .name = "version",
                                                    .kind = OPTION_BOOL,
                                                    .target = &self->version,
                                                    .help = "Print name and version." };
    self->common[COMMON_CONFIG] = (struct option){ .name = "config",
                                                   .kind = OPTION_STRING,
                                                   .target = &self->path,
                                                   .argument = "FILE",
                                                   .help = "INI file with further settings." };
    self->common[COMMON_LOG_FORMAT] =
        (struct option){ .name = "log-format",
                         .kind = OPTION_STRING,
                         .target = &self->log_format,
                         .argument = "text|json",
                         .help = "How log lines are written to standard error." };
    self->common[COMMON_READY] =
        (struct option){ .name = "ready-file",
                         .kind = OPTION_STRING,
                         .target = &self->ready_file,
                         .argument = "FILE",
                         .help = "Write the line \"ready role=...\" there once all is up." };
}

/* True if --help or --version stands before any "--"; mistakes elsewhere must not hide the help. */
static bool
answer_questions(const struct loader *self, int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            config_help_print(self->program, self->common, COMMON_COUNT);
            return true;
        }
        if (strcmp(argv[i], "--version") == 0) {
            printf("%s %s\n", self->program->name, DRAWBAR_VERSION);
            fflush(stdout);
            return true;
        }
    }
    return false;
}

static int
load(struct loader *self, struct config_common *common, int argc, char **argv)
{
    int rc = gather_flags(self, argc, argv);
    rc = rc ? rc : gather_environment(self);
    rc = rc ? rc : apply(self, &self->common[COMMON_CONFIG]);
    rc = rc ? rc : gather_file(self);
    for (size_t i = 0; rc == 0 && i < n_options(self); i++) {
        rc = apply(self, option_at(self, i));
    }
    if (rc == 0 && strcmp(self->log_format, "text") != 0 && strcmp(self->log_format, "json") != 0) {
        rc =
            mistake(self, "--log-format", "\"%s\" is unknown; give text or json", self->log_format);
    }
    bool has_ready_file = self->ready_file != NULL && self->ready_file[0] != '\0';
    common->ready_file = has_ready_file ? self->ready_file : NULL;
    common->log_json = strcmp(self->log_format, "json") == 0;
    return rc;
}

static void
loader_free(struct loader **self_p)
{
    free(*self_p);
    *self_p = NULL;
}

int
config_load(struct config **out, struct config_common *common, const struct program *program,
            int argc, char **argv)
{
    CLEANUP(config_destroy) struct config *config = calloc(1, sizeof *config);
    CLEANUP(loader_free) struct loader *loader = calloc(1, sizeof *loader);
    if (config == NULL || loader == NULL) {
        return -ENOMEM;
    }
    loader_init(loader, program, config);
    if (answer_questions(loader, argc, argv)) {
        return CONFIG_EXIT;
    }
    int rc = load(loader, common, argc, argv);
    if (rc == 0) {
        *out = config;
        config = NULL;
    }
    return rc;
}

void
config_destroy(struct config **self_p)
{
    struct config *self = *self_p;
    if (self == NULL) {
        return;
    }
    for (size_t i = 0; i < self->n_strings; i++) {
        free(self->strings[i]);
    }
    free(self->strings);
    free(self);
    *self_p = NULL;
}
