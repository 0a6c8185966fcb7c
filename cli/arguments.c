#include "cli/arguments.h"
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The pointers, and behind them the text of every -oFILE. */
char **
arguments_long(int argc, char **argv)
{
    static char output[] = "--output";
    size_t text_bytes = 0;
    bool options_end = false;
    for (int i = 0; i < argc; i++) {
        text_bytes += strlen(argv[i]) + sizeof output + 1;
    }
    char **out = calloc(1, ((size_t)argc + 1) * sizeof *out + text_bytes);
    if (out == NULL) {
        abort();
    }
    char *text = (char *)(out + argc + 1);
    for (int i = 0; i < argc; i++) {
        out[i] = argv[i];
        options_end = options_end || strcmp(argv[i], "--") == 0;
        if (options_end || strncmp(argv[i], "-o", 2) != 0) {
            continue;
        }
        if (argv[i][2] == '\0') {
            out[i] = output;
            continue;
        }
        out[i] = text;
        size_t room = strlen(argv[i]) + sizeof output + 1;
        text += snprintf(text, room, "%s=%s", output, argv[i] + 2) + 1;
    }
    return out;
}
