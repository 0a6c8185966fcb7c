#include "worker/message.h"
#include "proto/pack.h"
#include <string.h>

uint32_t
message_clean(char *out, size_t size, const char *text)
{
    size_t length = strnlen(text, size);
    bool cut = length == size && text[length] != '\0';
    while (cut && length > 0 && ((unsigned char)text[length] & 0xc0U) == 0x80U) {
        length--; /* not inside a character */
    }
    memmove(out, text, length);
    bool valid = utf8_valid(out, length, NULL);
    for (size_t i = 0; i < length; i++) {
        bool control = (unsigned char)out[i] < ' ' || out[i] == 0x7f;
        if (control || (!valid && (unsigned char)out[i] > 0x7f)) {
            out[i] = '?';
        }
    }
    return (uint32_t)length;
}

const char *
message_text(char *out, size_t size, const char *text)
{
    uint32_t length = message_clean(out, size - 1, text);
    out[length] = '\0';
    for (uint32_t i = 0; i < length; i++) {
        out[i] = (char)(out[i] == '"' ? '\'' : out[i]);
    }
    return out;
}
