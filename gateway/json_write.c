#include "gateway/json_write.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void
add(struct buffer *out, const char *text)
{
    buffer_add(out, text, strlen(text));
}

/* A comma, unless this is the first thing behind a bracket or a key. */
static void
separate(struct buffer *out)
{
    uint8_t last = out->length > 0 ? out->bytes[out->length - 1] : '{';
    if (last != '{' && last != '[' && last != ':') {
        buffer_add(out, ",", 1);
    }
}

void
put_open(struct buffer *out, char bracket)
{
    separate(out);
    buffer_add(out, &bracket, 1);
}

void
put_close(struct buffer *out, char bracket)
{
    buffer_add(out, &bracket, 1);
}

void
put_key(struct buffer *out, const char *key)
{
    separate(out);
    add(out, "\"");
    add(out, key);
    add(out, "\":");
}

static void
escape(struct buffer *out, uint8_t byte)
{
    char text[8];
    switch (byte) {
    case '"':
        add(out, "\\\"");
        break;
    case '\\':
        add(out, "\\\\");
        break;
    case '\n':
        add(out, "\\n");
        break;
    case '\t':
        add(out, "\\t");
        break;
    default:
        (void)snprintf(text, sizeof text, "\\u%04x", byte);
        add(out, text);
        break;
    }
}

void
put_text(struct buffer *out, struct slice text)
{
    const uint8_t *bytes = text.bytes;
    bool is_utf8 = utf8_valid(bytes, text.length, NULL);
    uint32_t done = 0;
    separate(out);
    add(out, "\"");
    for (uint32_t i = 0; i < text.length; i++) {
        bool foreign = !is_utf8 && bytes[i] >= 0x80;
        if (bytes[i] >= 0x20 && bytes[i] != '"' && bytes[i] != '\\' && bytes[i] != 0x7f &&
            !foreign) {
            continue;
        }
        buffer_add(out, bytes + done, i - done);
        done = i + 1;
        if (foreign) {
            add(out, "?");
        } else {
            escape(out, bytes[i]);
        }
    }
    if (done < text.length) {
        buffer_add(out, bytes + done, text.length - done);
    }
    add(out, "\"");
}

void
put_word(struct buffer *out, const char *text)
{
    put_text(out, slice_of(text));
}

void
put_uint(struct buffer *out, uint64_t value)
{
    char text[24];
    separate(out);
    (void)snprintf(text, sizeof text, "%" PRIu64, value);
    add(out, text);
}

void
put_number(struct buffer *out, double value)
{
    char text[40];
    separate(out);
    (void)snprintf(text, sizeof text, "%.17g", value);
    for (int digits = 1; digits < 17; digits++) { /* the shortest text that reads back the same */
        char shorter[40];
        (void)snprintf(shorter, sizeof shorter, "%.*g", digits, value);
        if (strtod(shorter, NULL) == value) {
            memcpy(text, shorter, sizeof text);
            break;
        }
    }
    add(out, text);
    if (strpbrk(text, ".e") == NULL) {
        add(out, ".0");
    }
}

void
put_flag(struct buffer *out, bool value)
{
    separate(out);
    add(out, value ? "true" : "false");
}

void
put_null(struct buffer *out)
{
    separate(out);
    add(out, "null");
}

void
put_raw(struct buffer *out, struct slice json)
{
    separate(out);
    buffer_add(out, json.bytes, json.length);
}

void
put_time(struct buffer *out, uint64_t ms)
{
    char text[40];
    struct tm parts;
    time_t seconds = (time_t)(ms / 1000);
    if (gmtime_r(&seconds, &parts) == NULL) { /* a year past what struct tm holds */
        put_null(out);
        return;
    }
    size_t length = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
    (void)snprintf(text + length, sizeof text - length, ".%03uZ", (unsigned)(ms % 1000));
    put_word(out, text);
}
