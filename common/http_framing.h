#pragma once
/*
 * http_framing — what evhttp lets through and a careful server must not.
 *
 * Two parsers that read one request differently are how requests are smuggled past a proxy; so what
 * RFC 9112 leaves doubtful is refused, not repaired. What evhttp hides from a handler (bare LF line
 * ends, folded headers, a NUL in a header's value, odd chunk sizes) cannot be refused here.
 */
#include <event2/http.h>
#include <stdbool.h>
#include <stddef.h>

/* What is wrong with the request, as a sentence for its sender; NULL: nothing. */
const char *http_framing_fault(struct evhttp_request *request);
/* The standard phrase of a status, or one for its class. */
const char *http_phrase(int status);
/* Decodes the escapes of a piece of a path. False: a bad escape, a NUL, or too long for `size`. */
bool http_decode(const char *from, size_t length, char *out, size_t size);
/* Finds `name` in a raw query and decodes its value into out. False: absent, a bad escape, a NUL
 * or too long for `size`; then out is "". */
bool http_query_find(const char *query, const char *name, char *out, size_t size);
