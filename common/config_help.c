#include "common/config_help.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { PAGE_COLUMNS = 88, FLAG_COLUMNS_MAX = 30, NAME_MAX_LENGTH = 64 };

static int
flag_text(char *out, size_t size, const struct option *option)
{
    return option->argument == NULL
               ? snprintf(out, size, "--%s", option->name)
               : snprintf(out, size, "--%s %s", option->name, option->argument);
}

/* What stands in brackets after the sentence: " (default: 8080)". */
static void
note_text(char *out, size_t size, const struct option *option)
{
    const char *text = NULL;
    const struct string_list *list = NULL;
    int64_t number = 0;
    out[0] = '\0';
    switch (option->kind) {
    case OPTION_STRING:
        text = *(const char **)option->target;
        break;
    case OPTION_INT:
        number = *(const int64_t *)option->target;
        if (number >= option->min && number <= option->max) { /* else it has no default */
            snprintf(out, size, " (default: %" PRId64 ")", number);
        }
        break;
    case OPTION_BOOL:
        text = *(const bool *)option->target ? "true" : NULL;
        break;
    case OPTION_LIST:
        list = option->target;
        text = list->count > 0 ? list->items[0] : NULL;
        snprintf(out, size, " (may be repeated)");
        break;
    case OPTION_KIND_COUNT:
        break;
    }
    if (option->required) {
        snprintf(out, size, list != NULL ? " (required, may be repeated)" : " (required)");
    } else if (text != NULL && text[0] != '\0') {
        snprintf(out, size, list != NULL ? " (default: %s; may be repeated)" : " (default: %s)",
                 text);
    }
}

/* Prints words from column `column` on, in lines that all start at `indent`. */
static void
print_wrapped(const char *text, size_t column, size_t indent)
{
    size_t at = column;
    bool first = true;
    while (*(text += strspn(text, " ")) != '\0') {
        size_t length = strcspn(text, " \n");
        if (!first && at + 1 + length > PAGE_COLUMNS) {
            printf("\n%*s", (int)indent, "");
            at = indent;
            first = true;
        }
        printf("%s%.*s", first ? "" : " ", (int)length, text);
        at += length + (first ? 0 : 1);
        first = false;
        text += length;
        if (*text == '\n') {
            printf("\n%*s", (int)indent, "");
            at = indent;
            first = true;
            text++;
        }
    }
    printf("\n");
}

static void
print_options(const struct option *options, size_t n_options, size_t indent)
{
    for (size_t i = 0; i < n_options; i++) {
        char flag[256];
        char note[512];
        char text[1024];
        flag_text(flag, sizeof flag, &options[i]);
        note_text(note, sizeof note, &options[i]);
        snprintf(text, sizeof text, "%s%s", options[i].help, note);
        int length = printf("  %s", flag);
        if (length < 0 || (size_t)length + 2 > indent) {
            printf("\n");
            length = 0;
        }
        printf("%*s", (int)indent - length, "");
        print_wrapped(text, indent, indent);
    }
}

/* The column of the sentences: behind the widest flag that is not too wide. */
static size_t
widest(const struct option *options, size_t n_options, size_t at_least)
{
    for (size_t i = 0; i < n_options; i++) {
        int length = flag_text(NULL, 0, &options[i]);
        if (length > 0 && length <= FLAG_COLUMNS_MAX && (size_t)length > at_least) {
            at_least = (size_t)length;
        }
    }
    return at_least;
}

void
config_help_print(const struct program *program, const struct option *common, size_t n_common)
{
    char closing[256];
    size_t indent = widest(program->options, program->n_options, 0);
    indent = widest(common, n_common, indent) + 4;
    printf("Usage: %s [OPTIONS]%s%s\n\n", program->name, program->positional != NULL ? " " : "",
           program->positional != NULL ? program->positional : "");
    print_wrapped(program->summary, 0, 0);
    printf("\nOptions:\n");
    print_options(program->options, program->n_options, indent);
    printf("\nOptions of every Drawbar program:\n");
    print_options(common, n_common, indent);
    printf("\n");
    print_wrapped("Each option may also stand in the environment (--log-format as "
                  "DRAWBAR_LOG_FORMAT) or in the INI file of --config (log-format = json).",
                  0, 0);
    snprintf(closing, sizeof closing,
             "The section of the INI file is [%s]; what stands before any section is for all "
             "programs. A flag beats the environment, which beats the file.",
             program->role);
    print_wrapped(closing, 0, 0);
    fflush(stdout);
}

uint32_t
config_help_distance(const char *a, const char *b, uint32_t give_up)
{
    uint32_t row[NAME_MAX_LENGTH + 1];
    size_t n_a = strlen(a);
    size_t n_b = strlen(b);
    if (n_a > NAME_MAX_LENGTH || n_b > NAME_MAX_LENGTH) {
        return give_up;
    }
    for (size_t j = 0; j <= n_b; j++) {
        row[j] = (uint32_t)j;
    }
    for (size_t i = 1; i <= n_a; i++) {
        uint32_t diagonal = row[0];
        row[0] = (uint32_t)i;
        for (size_t j = 1; j <= n_b; j++) {
            uint32_t change = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
            uint32_t step = 1 + (row[j] < row[j - 1] ? row[j] : row[j - 1]);
            diagonal = row[j];
            row[j] = change < step ? change : step;
        }
    }
    return row[n_b] < give_up ? row[n_b] : give_up;
}
