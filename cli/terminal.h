#pragma once
/*
 * terminal — what the other side of a file descriptor can show, and how wide a text is there.
 *
 * Everything that comes from a server or a user passes text_fit() before it is shown: it takes the
 * control characters away, so that no prompt can steer the terminal.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct terminal {
    bool live;   /* a terminal that can redraw a line */
    bool colour; /* live, and NO_COLOR is not set */
    bool utf8;   /* else ASCII only */
    uint32_t columns;
};

enum style {
    STYLE_PLAIN,
    STYLE_BOLD,
    STYLE_DIM,
    STYLE_GREEN,
    STYLE_YELLOW,
    STYLE_RED,
    STYLE_COUNT
};

/* Takes over the locale; once, at the start. */
void terminal_setup(void);
void terminal_look(struct terminal *out, int fd);
/* The escape sequence that begins a style, "" without colour. STYLE_PLAIN ends all others. */
const char *terminal_style(const struct terminal *terminal, enum style style);
/* Columns that UTF-8 text takes: 2 for a Chinese character, 0 for a combining mark. */
uint32_t text_width(const char *text);
/* Copies what fits in `columns` and in `size` bytes; what is cut off is marked by an ellipsis.
 * Control characters become spaces; without utf8, other characters become '?'. */
void text_fit(char *out, size_t size, const char *text, uint32_t columns, bool utf8);
