#include "common/ids.h"
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static const char digits[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

enum {
    BITS_A_DIGIT = 5,
    TIME_BYTES = 6,
    /* 26 digits hold 130 bits: the first digit has only the 3 highest bits of the id. */
    FIRST_DIGIT_MAX = 7,
};

void
random_fill(void *out, unsigned long n)
{
    uint8_t *next = out;
    while (n > 0) {
        ssize_t got = getrandom(next, n, 0);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            abort(); /* without randomness ids could be guessed and sessions confused */
        }
        next += got;
        n -= (unsigned long)got;
    }
}

uint64_t
random_u64(void)
{
    uint64_t value = 0;
    while (value == 0) {
        random_fill(&value, sizeof value);
    }
    return value;
}

struct job_id
job_id_mint(int64_t wall_ms)
{
    struct job_id id;
    uint64_t ms = wall_ms < 0 ? 0 : (uint64_t)wall_ms;
    for (int i = TIME_BYTES - 1; i >= 0; i--) {
        id.bytes[i] = (uint8_t)(ms & 0xff);
        ms >>= 8;
    }
    random_fill(id.bytes + TIME_BYTES, JOB_ID_BYTES - TIME_BYTES);
    return id;
}

void
job_id_print(const struct job_id *id, char out[JOB_ID_TEXT + 1])
{
    /* From the last digit to the first: `window` holds the bits not yet written, lowest first. */
    uint32_t window = 0;
    uint32_t n_bits = 0;
    int next_byte = JOB_ID_BYTES - 1;
    for (int i = JOB_ID_TEXT - 1; i >= 0; i--) {
        if (n_bits < BITS_A_DIGIT && next_byte >= 0) {
            window |= (uint32_t)id->bytes[next_byte] << n_bits;
            n_bits += 8;
            next_byte--;
        }
        out[i] = digits[window & 31];
        window >>= BITS_A_DIGIT;
        n_bits = n_bits > BITS_A_DIGIT ? n_bits - BITS_A_DIGIT : 0;
    }
    out[JOB_ID_TEXT] = '\0';
}

/* 0-31, or -1. Only our own alphabet: an alias such as O for 0 would give one job two names. */
static int
digit_value(char c)
{
    int upper = c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c;
    const char *found = upper == '\0' ? NULL : strchr(digits, upper);
    return found == NULL ? -1 : (int)(found - digits);
}

bool
job_id_parse(const char *text, unsigned long length, struct job_id *out)
{
    struct job_id id;
    uint32_t window = 0;
    uint32_t n_bits = 0;
    int next_byte = JOB_ID_BYTES - 1;
    if (length != JOB_ID_TEXT) {
        return false;
    }
    for (int i = JOB_ID_TEXT - 1; i >= 0; i--) {
        int value = digit_value(text[i]);
        if (value < 0 || (i == 0 && value > FIRST_DIGIT_MAX)) {
            return false;
        }
        window |= (uint32_t)value << n_bits;
        n_bits += BITS_A_DIGIT;
        if (n_bits >= 8 && next_byte >= 0) {
            id.bytes[next_byte] = (uint8_t)(window & 0xff);
            next_byte--;
            window >>= 8;
            n_bits -= 8;
        }
    }
    *out = id;
    return true;
}

bool
job_id_equal(const struct job_id *a, const struct job_id *b)
{
    return memcmp(a->bytes, b->bytes, JOB_ID_BYTES) == 0;
}

int64_t
job_id_ms(const struct job_id *id)
{
    uint64_t ms = 0;
    for (int i = 0; i < TIME_BYTES; i++) {
        ms = ms << 8 | id->bytes[i];
    }
    return (int64_t)ms;
}
