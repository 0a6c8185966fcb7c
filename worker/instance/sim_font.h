#pragma once
/*
 * sim_font — capital letters, digits and a few signs, 5 x 7 dots, drawn for this program.
 */
#include <stdint.h>

enum { FONT_WIDTH = 5, FONT_HEIGHT = 7, FONT_ADVANCE = 6 };

/* The rows of a character, top first; the leftmost dot is bit 4. Small letters are drawn as capital
 * ones; '*' is a multiplication sign; what has no glyph is a blank. */
const uint8_t *font_glyph(char c);
