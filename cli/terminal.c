#include "cli/terminal.h"
#include <assert.h>
#include <langinfo.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

enum { COLUMNS_DEFAULT = 80, COLUMNS_MAX = 1000, UTF8_MAX = 4, ELLIPSIS_BYTES = 3 };

static bool says_utf8;

void
terminal_setup(void)
{
    /* A locale that was never generated (ssh brings its name along) leaves us in "C", though the
     * terminal speaks UTF-8. */
    const char *wanted = getenv("LC_ALL");
    wanted = wanted != NULL && wanted[0] != '\0' ? wanted : getenv("LC_CTYPE");
    wanted = wanted != NULL && wanted[0] != '\0' ? wanted : getenv("LANG");
    if (setlocale(LC_CTYPE, "") == NULL && wanted != NULL &&
        (strcasestr(wanted, "utf-8") != NULL || strcasestr(wanted, "utf8") != NULL)) {
        (void)setlocale(LC_CTYPE, "C.UTF-8");
    }
    says_utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
    if (!says_utf8) {
        (void)setlocale(LC_CTYPE, "C.UTF-8"); /* widths of what is in prompts, whatever is shown */
    }
}

void
terminal_look(struct terminal *out, int fd)
{
    const char *term = getenv("TERM");
    const char *no_colour = getenv("NO_COLOR");
    struct winsize size = { 0 };
    *out = (struct terminal){ .utf8 = says_utf8, .columns = COLUMNS_DEFAULT };
    out->live = isatty(fd) == 1 && term != NULL && term[0] != '\0' && strcmp(term, "dumb") != 0;
    out->colour = out->live && (no_colour == NULL || no_colour[0] == '\0');
    if (out->live && ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
        out->columns = size.ws_col < COLUMNS_MAX ? size.ws_col : COLUMNS_MAX;
    }
}

const char *
terminal_style(const struct terminal *terminal, enum style style)
{
    static const char *const codes[STYLE_COUNT] = {
        [STYLE_PLAIN] = "\033[0m",  [STYLE_BOLD] = "\033[1m",    [STYLE_DIM] = "\033[2m",
        [STYLE_GREEN] = "\033[32m", [STYLE_YELLOW] = "\033[33m", [STYLE_RED] = "\033[31m",
    };
    assert(style < STYLE_COUNT);
    return terminal->colour ? codes[style] : "";
}

/* One character: how many bytes, and its columns. Bytes that are no UTF-8 are taken one by one,
 * with *wide = -1. */
static size_t
character(const char *text, int *wide)
{
    wchar_t letter = 0;
    mbstate_t state = { 0 };
    size_t n = mbrtowc(&letter, text, UTF8_MAX, &state);
    if (n == 0 || n > UTF8_MAX) {
        *wide = -1;
        return 1;
    }
    *wide = wcwidth(letter); /* -1: a control character */
    return n;
}

uint32_t
text_width(const char *text)
{
    uint32_t width = 0;
    while (*text != '\0') {
        int wide;
        text += character(text, &wide);
        width += wide < 0 ? 1 : (uint32_t)wide;
    }
    return width;
}

/* Appends one character of the text, or what stands for it. */
static size_t
put_character(char *out, const char *text, size_t n, const int *wide, bool utf8)
{
    unsigned char first = (unsigned char)*text;
    if (n == 1 && (first < ' ' || first == 0x7f)) {
        out[0] = ' ';
        return 1;
    }
    if (*wide < 0 || (!utf8 && first >= 0x80)) {
        out[0] = '?';
        return 1;
    }
    memcpy(out, text, n);
    return n;
}

void
text_fit(char *out, size_t size, const char *text, uint32_t columns, bool utf8)
{
    const char *ellipsis = utf8 ? "…" : "...";
    uint32_t ellipsis_width = utf8 ? 1 : 3;
    size_t used = 0;
    size_t cut = 0; /* where the ellipsis would stand */
    uint32_t width = 0;
    assert(size > ELLIPSIS_BYTES);
    while (*text != '\0') {
        int wide;
        size_t n = character(text, &wide);
        uint32_t step = wide < 0 || !utf8 ? 1 : (uint32_t)wide;
        if (width + ellipsis_width <= columns && used + ELLIPSIS_BYTES < size) {
            cut = used;
        }
        if (width + step > columns || used + n >= size) {
            (void)snprintf(out + cut, size - cut, "%s", columns >= ellipsis_width ? ellipsis : "");
            return;
        }
        used += put_character(out + used, text, n, &wide, utf8);
        width += step;
        text += n;
    }
    out[used] = '\0';
}
