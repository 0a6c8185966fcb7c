#pragma once
/*
 * log — one line an event on standard error, `time level role event key=value ...` or JSON.
 *
 * The format string starts with the event's name in kebab-case, then key=value pairs, as in
 * log_error("store-open-failed url=%s error=%s", url, strerror(-rc)). A value with a space, quote
 * or control character is written by the caller inside double quotes (key="%s"); control
 * characters in the finished line are replaced by '?', so that no peer can forge a line. Lines are
 * cut at LIMIT_LOG_LINE bytes. With the format `json` the pairs become members of one object
 * {"time","level","role","event",...}, all of them strings. Bytes that are not UTF-8 are replaced
 * like control characters. Thread-safe: one write(2) a line.
 */
#include <stdbool.h>
/* czmq.h brings syslog.h, whose macros would silently replace two of our levels: let it come first,
 * once, and take them away. */
#include <syslog.h>
#undef LOG_DEBUG
#undef LOG_INFO

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR, LOG_LEVEL_COUNT };

/* Names this process in every line ("broker", "gateway", ...); `json` chooses the format. */
void log_setup(const char *role, bool json, enum log_level lowest);
/* Writes one line; use the macros. */
void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__)
#define log_info(...)  log_write(LOG_INFO, __VA_ARGS__)
#define log_warn(...)  log_write(LOG_WARN, __VA_ARGS__)
#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
