#include "common/redis_url.h"
#include "common/reactor.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REDIS_PORT = 6379, SENTINEL_PORT = 26379, REDIS_DB_MAX = 65535 };

static int
hex_value(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* False: a bad escape, a NUL, or too long. */
static bool
percent_decode(char *out, size_t size, const char *text, size_t length)
{
    size_t n = 0;
    for (size_t i = 0; i < length; i++) {
        char c = text[i];
        if (c == '%') {
            int high = i + 2 < length ? hex_value(text[i + 1]) : -1;
            int low = high < 0 ? -1 : hex_value(text[i + 2]);
            if (low < 0) {
                return false;
            }
            c = (char)(high * 16 + low);
            i += 2;
        }
        if (c == '\0' || n + 1 >= size) {
            return false;
        }
        out[n++] = c;
    }
    out[n] = '\0';
    return true;
}

static bool
read_number(uint32_t *out, const char *text, size_t length, uint32_t max)
{
    uint32_t value = 0;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9') {
            return false;
        }
        value = value * 10 + (uint32_t)(text[i] - '0');
        if (value > max) {
            return false;
        }
    }
    *out = value;
    return length > 0;
}

/* [USER]:PASSWORD; a lone word is not accepted, for redis-cli reads it as the user. */
static const char *
read_login(struct redis_url *out, const char *text, size_t length)
{
    const char *colon = memchr(text, ':', length);
    if (colon == NULL) {
        return "before @ write :PASSWORD or USER:PASSWORD";
    }
    size_t user_length = (size_t)(colon - text);
    if (!percent_decode(out->user, sizeof out->user, text, user_length) ||
        !percent_decode(out->password, sizeof out->password, colon + 1, length - user_length - 1)) {
        return "user or password is too long or has a bad % escape";
    }
    return NULL;
}

/* HOST[:PORT]; out->port is the one if it is absent. */
static const char *
read_host(struct redis_host *out, const char *text, size_t length)
{
    const char *host = text;
    const char *end = text + length;
    const char *colon = memchr(text, ':', length);
    const char *host_end = colon == NULL ? end : colon;
    uint32_t port = out->port;
    if (length > 0 && text[0] == '[') {
        host = text + 1;
        host_end = memchr(text, ']', length);
        if (host_end == NULL) {
            return "an IPv6 address needs its closing ]";
        }
        colon = host_end + 1 < end ? host_end + 1 : NULL;
    }
    size_t host_length = (size_t)(host_end - host);
    if (host_length == 0 || host_length >= sizeof out->host) {
        return "a host is missing or too long; write redis://HOST:PORT";
    }
    if (colon != NULL &&
        (*colon != ':' || !read_number(&port, colon + 1, (size_t)(end - colon - 1), UINT16_MAX) ||
         port == 0)) {
        return "the port must be 1 to 65535; an IPv6 address stands in [brackets]";
    }
    memcpy(out->host, host, host_length);
    out->host[host_length] = '\0';
    out->port = (uint16_t)port;
    return NULL;
}

/* [[USER]:PASSWORD@] at the head of `text`, which ends at `end`; *rest is what follows. */
static const char *
read_at(struct redis_url *out, const char *text, const char *end, const char **rest)
{
    const char *at = memrchr(text, '@', (size_t)(end - text));
    *rest = at == NULL ? text : at + 1;
    return at == NULL ? NULL : read_login(out, text, (size_t)(at - text));
}

/* "/DB", or nothing. */
static const char *
read_db(struct redis_url *out, const char *text)
{
    if (*text != '/' && *text != '\0') {
        return "this URL has no ? and no #; write them as %3F and %23 in a password";
    }
    if (*text == '/' && text[1] != '\0' &&
        !read_number(&out->db, text + 1, strlen(text + 1), REDIS_DB_MAX)) {
        return "after the last / stands the number of the database";
    }
    return NULL;
}

static const char *
read_tcp(struct redis_url *out, const char *text)
{
    const char *end = text + strcspn(text, "/?#");
    const char *host = text;
    out->at.port = REDIS_PORT;
    const char *why = read_at(out, text, end, &host);
    why = why ? why : read_host(&out->at, host, (size_t)(end - host));
    why = why ? why : read_db(out, end);
    if (why == NULL) {
        bool ipv6 = strchr(out->at.host, ':') != NULL;
        snprintf(out->address, sizeof out->address, ipv6 ? "[%s]:%u" : "%s:%u", out->at.host,
                 (unsigned)out->at.port);
    }
    return why;
}

/* "NAME" or "NAME/DB" */
static const char *
read_master(struct redis_url *out, const char *text)
{
    size_t length =
        strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");
    if (length == 0 || length >= sizeof out->master || strchr("/?#", text[length]) == NULL) {
        return "after the Sentinels stands the name of the master: sentinel://HOST,HOST/NAME";
    }
    memcpy(out->master, text, length);
    out->master[length] = '\0';
    return read_db(out, text + length);
}

static const char *
read_sentinels(struct redis_url *out, const char *text)
{
    const char *end = text + strcspn(text, "/?#");
    const char *next = text;
    const char *why = read_at(out, text, end, &next);
    const char *hosts = next;
    while (why == NULL && next <= end) {
        size_t length = (size_t)(end - next);
        const char *comma = memchr(next, ',', length);
        if (out->n_sentinels == LIMIT_SENTINELS) {
            return "more than 8 Sentinels are named";
        }
        struct redis_host *sentinel = &out->sentinels[out->n_sentinels++];
        sentinel->port = SENTINEL_PORT;
        why = read_host(sentinel, next, comma == NULL ? length : (size_t)(comma - next));
        next = comma == NULL ? end + 1 : comma + 1;
    }
    why = why ? why : read_master(out, *end == '/' ? end + 1 : end);
    if (why == NULL) {
        snprintf(out->address, sizeof out->address, "sentinel://%.*s/%s", (int)(end - hosts), hosts,
                 out->master);
    }
    return why;
}

/* One NAME=VALUE of a Unix socket's query. */
static const char *
read_argument(struct redis_url *out, const char *text, size_t length)
{
    const char *equals = memchr(text, '=', length);
    size_t name_length = equals == NULL ? length : (size_t)(equals - text);
    const char *value = equals == NULL ? text + length : equals + 1;
    size_t value_length = (size_t)(text + length - value);
    bool good = true;
    if (name_length == 8 && memcmp(text, "password", 8) == 0) {
        good = percent_decode(out->password, sizeof out->password, value, value_length);
    } else if (name_length == 4 && memcmp(text, "user", 4) == 0) {
        good = percent_decode(out->user, sizeof out->user, value, value_length);
    } else if (name_length == 2 && memcmp(text, "db", 2) == 0) {
        good = read_number(&out->db, value, value_length, REDIS_DB_MAX);
    } else {
        return "after the ? only password=, user= and db= are known";
    }
    return good ? NULL : "a value after the ? is too long, not a number or has a bad % escape";
}

static const char *
read_unix(struct redis_url *out, const char *text)
{
    size_t path_length = strcspn(text, "?");
    const char *next = text + path_length;
    if (text[0] != '/' || path_length < 2) {
        return "the path of the socket is absolute: unix:///PATH";
    }
    if (!percent_decode(out->path, sizeof out->path, text, path_length)) {
        return "the path of the socket is too long (107 bytes) or has a bad % escape";
    }
    while (*next != '\0') {
        size_t length = strcspn(next + 1, "&");
        const char *why = read_argument(out, next + 1, length);
        if (why != NULL) {
            return why;
        }
        next += 1 + length;
    }
    snprintf(out->address, sizeof out->address, "unix:%s", out->path);
    return NULL;
}

int
redis_url_parse(struct redis_url *out, const char *text, const char **why)
{
    *out = (struct redis_url){ .db = 0 };
    if (strlen(text) >= 4 * (size_t)LIMIT_URL) {
        *why = "the URL is too long";
    } else if (strncmp(text, "redis://", 8) == 0) {
        *why = read_tcp(out, text + 8);
    } else if (strncmp(text, "unix://", 7) == 0) {
        *why = read_unix(out, text + 7);
    } else if (strncmp(text, "sentinel://", 11) == 0) {
        *why = read_sentinels(out, text + 11);
    } else if (strncmp(text, "rediss://", 9) == 0) {
        *why = "there is no TLS to Redis here; run stunnel and give its local address";
    } else {
        *why = "write redis://HOST:PORT, unix:///PATH or sentinel://HOST,HOST,HOST/NAME";
    }
    if (*why == NULL && out->user[0] != '\0' && out->password[0] == '\0') {
        *why = "a user needs a password";
    }
    return *why == NULL ? 0 : -EINVAL;
}

bool
redis_url_is_loopback(const struct redis_url *self)
{
    bool here = self->at.host[0] == '\0' || host_is_loopback(self->at.host);
    for (uint32_t i = 0; i < self->n_sentinels; i++) {
        here = here && host_is_loopback(self->sentinels[i].host);
    }
    return here;
}
