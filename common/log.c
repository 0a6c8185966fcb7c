#include "common/log.h"
#include "common/clock.h"
#include "common/limits.h"
#include <assert.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const level_names[LOG_LEVEL_COUNT] = {
    [LOG_DEBUG] = "debug",
    [LOG_INFO] = "info",
    [LOG_WARN] = "warn",
    [LOG_ERROR] = "error",
};

/* Set once by log_setup(), before there are threads. */
static struct {
    const char *role;
    bool json;
    enum log_level lowest;
} settings = { .role = "drawbar", .json = false, .lowest = LOG_INFO };

/* A line under construction. What does not fit is left out; `reserve` bytes always fit. */
struct line {
    char text[LIMIT_LOG_LINE];
    size_t length;
    size_t reserve;
};

void
log_setup(const char *role, bool json, enum log_level lowest)
{
    assert(lowest < LOG_LEVEL_COUNT);
    settings.role = role;
    settings.json = json;
    settings.lowest = lowest;
}

/* Length of the UTF-8 character at text, 0 if it is none (overlong, surrogate, cut). */
static size_t
utf8_length(const unsigned char *text)
{
    static const uint32_t smallest[5] = { 0, 0, 0x80, 0x800, 0x10000 };
    size_t length = 0;
    uint32_t point = 0;
    if (text[0] < 0x80) {
        return 1;
    }
    if (text[0] >= 0xc2 && text[0] <= 0xdf) {
        length = 2;
        point = text[0] & 0x1fU;
    } else if (text[0] >= 0xe0 && text[0] <= 0xef) {
        length = 3;
        point = text[0] & 0x0fU;
    } else if (text[0] >= 0xf0 && text[0] <= 0xf4) {
        length = 4;
        point = text[0] & 0x07U;
    } else {
        return 0;
    }
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xc0) != 0x80) { /* the closing NUL ends this too */
            return 0;
        }
        point = point << 6 | (text[i] & 0x3fU);
    }
    bool surrogate = point >= 0xd800 && point <= 0xdfff;
    return point < smallest[length] || point > 0x10ffff || surrogate ? 0 : length;
}

/* Replaces what could forge a line, drive a terminal, or break JSON: control characters (also
 * U+0080 to U+009F, which some terminals obey) and bytes that are not UTF-8. */
static void
scrub(char *text)
{
    unsigned char *next = (unsigned char *)text;
    while (*next != '\0') {
        size_t length = utf8_length(next);
        bool control = *next < 0x20 || *next == 0x7f || (*next == 0xc2 && next[1] < 0xa0);
        if (length == 0) {
            *next = '?';
            length = 1;
        } else if (control) {
            memset(next, '?', length);
        }
        next += length;
    }
}

static bool
line_add(struct line *line, const char *text, size_t length)
{
    if (length + line->length + line->reserve > sizeof line->text) {
        return false;
    }
    memcpy(line->text + line->length, text, length);
    line->length += length;
    return true;
}

/* Adds as much of the text as fits, whole characters only. */
static void
line_add_cut(struct line *line, const char *text, size_t length)
{
    size_t room = sizeof line->text - line->length - line->reserve;
    if (length > room) {
        length = room;
        while (length > 0 && ((unsigned char)text[length] & 0xc0) == 0x80) {
            length--;
        }
    }
    line_add(line, text, length);
}

/* Adds "text" with JSON's escapes, cut if it must be. False: not even the quotes fit. */
static bool
line_add_json(struct line *line, const char *text, size_t length)
{
    line->reserve++; /* the closing quote */
    bool fits = line_add(line, "\"", 1);
    for (size_t i = 0; fits && i < length;) {
        size_t step = utf8_length((const unsigned char *)text + i);
        const char *from = text + i;
        char escaped[2] = { '\\', text[i] };
        if (text[i] == '"' || text[i] == '\\') {
            from = escaped;
            step = 2;
        }
        if (!line_add(line, from, step)) {
            break;
        }
        i += from == escaped ? 1 : step;
    }
    line->reserve--;
    return fits && line_add(line, "\"", 1);
}

/* Adds ,"name":"value"; nothing at all if it does not fit. */
static void
line_add_member(struct line *line, const char *name, size_t name_length, const char *value,
                size_t value_length)
{
    static const char *const taken[] = { "time", "level", "role", "event" };
    size_t before = line->length;
    bool fits = line_add(line, ",", 1);
    bool clash = false;
    for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++) {
        clash =
            clash || (strlen(taken[i]) == name_length && memcmp(taken[i], name, name_length) == 0);
    }
    char renamed[8]; /* a pair must not pass for what we say ourselves */
    if (clash) {
        memcpy(renamed, name, name_length);
        renamed[name_length] = '_';
        name = renamed;
        name_length++;
    }
    fits = fits && line_add_json(line, name, name_length) && line_add(line, ":", 1);
    if (!fits || !line_add_json(line, value, value_length)) {
        line->length = before;
    }
}

/* Splits `event key=value key="quoted value" word` into members. A quoted value ends at a quote
 * that stands before a space or the end, so that a quote inside does no harm. */
static void
line_add_pairs(struct line *line, const char *body)
{
    size_t event_length = strcspn(body, " ");
    line_add(line, "\"event\":", strlen("\"event\":"));
    line_add_json(line, body, event_length);
    const char *next = body + event_length;
    while (*(next += strspn(next, " ")) != '\0') {
        size_t name_length = strcspn(next, " =");
        const char *value = next + name_length;
        size_t value_length = 0;
        const char *end = value;
        if (value[0] == '=' && value[1] == '"') {
            value += 2;
            end = strchr(value, '"');
            while (end != NULL && end[1] != ' ' && end[1] != '\0') {
                end = strchr(end + 1, '"');
            }
            value_length = end == NULL ? strlen(value) : (size_t)(end - value);
            end = end == NULL ? value + value_length : end + 1;
        } else if (value[0] == '=') {
            value++;
            value_length = strcspn(value, " ");
            end = value + value_length;
        }
        line_add_member(line, next, name_length, value, value_length);
        next = end;
    }
}

static void
line_start(struct line *line, enum log_level level)
{
    int64_t now_ms = clock_wall_ms();
    time_t seconds = (time_t)(now_ms / 1000);
    struct tm tm;
    char stamp[32];
    gmtime_r(&seconds, &tm);
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &tm);
    const char *form = settings.json ? "{\"time\":\"%s.%03dZ\",\"level\":\"%s\",\"role\":\"%.64s\","
                                     : "%s.%03dZ %s %.64s ";
    int length = snprintf(line->text, sizeof line->text, form, stamp, (int)(now_ms % 1000),
                          level_names[level], settings.role);
    line->length = length < 0 ? 0 : (size_t)length;
}

void
log_write(enum log_level level, const char *format, ...)
{
    char body[LIMIT_LOG_LINE];
    struct line line;
    assert(level < LOG_LEVEL_COUNT);
    if (level < settings.lowest) {
        return;
    }
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(body, sizeof body, format, arguments);
    va_end(arguments);
    if (length < 0) {
        body[0] = '\0';
    }
    scrub(body);
    line_start(&line, level);
    if (settings.json) {
        line.reserve = 2; /* "}\n" */
        line_add_pairs(&line, body);
        line.reserve = 0;
        line_add(&line, "}\n", 2);
    } else {
        line.reserve = 1;
        line_add_cut(&line, body, strlen(body));
        line.reserve = 0;
        line_add(&line, "\n", 1);
    }
    /* One write a line keeps lines of several threads whole; a full disk must not stop us. */
    ssize_t written = write(STDERR_FILENO, line.text, line.length);
    (void)written;
}
