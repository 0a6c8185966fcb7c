#pragma once
/*
 * json_write — appends JSON to a buffer, value by value; commas come by themselves.
 *
 *     put_open(out, '{');
 *     put_key(out, "position");
 *     put_uint(out, 3);
 *     put_close(out, '}');
 *
 * The buffer holds nothing but one JSON text. Pure.
 */
#include "proto/pack.h"

void put_open(struct buffer *out, char bracket);   /* '{' or '[' */
void put_close(struct buffer *out, char bracket);  /* '}' or ']' */
void put_key(struct buffer *out, const char *key); /* a plain word of ours, needs no escapes */
/* Bytes that are not UTF-8 become '?', so that the text is always JSON. */
void put_text(struct buffer *out, struct slice text);
void put_word(struct buffer *out, const char *text); /* the same for a C string */
void put_uint(struct buffer *out, uint64_t value);
void put_number(struct buffer *out, double value); /* finite; always with a point: 0.0 */
void put_flag(struct buffer *out, bool value);
void put_null(struct buffer *out);
void put_raw(struct buffer *out, struct slice json); /* is JSON already */
/* Milliseconds since 1970 as "2026-01-31T12:00:00.123Z". */
void put_time(struct buffer *out, uint64_t ms);
