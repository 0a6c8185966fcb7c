#pragma once
/*
 * message — words of a server, as a frame, JSON and a line of the log take them.
 */
#include <stddef.h>
#include <stdint.h>

/* Copies at most `size` bytes, without a NUL: cut before a character, control characters as '?',
 * and ASCII only if it is not UTF-8. Returns the length. */
uint32_t message_clean(char *out, size_t size, const char *text);
/* The same with a NUL and ' for ", which the log puts around it. Returns `out`. */
const char *message_text(char *out, size_t size, const char *text);
