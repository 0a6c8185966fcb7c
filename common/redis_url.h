#pragma once
/*
 * redis_url — where a Redis is and how to log in, read from one string.
 *
 *     redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]        PORT 6379, DB 0 if absent
 *     unix:///PATH[?password=P][&user=U][&db=N]
 *     sentinel://[[USER]:PASSWORD@]HOST[:PORT],HOST[:PORT].../NAME[/DB]
 *
 * The last one names up to LIMIT_SENTINELS Redis Sentinels (PORT 26379 if absent) and the master
 * that they watch; USER and PASSWORD are the master's, and offered to the Sentinels as well. HOST
 * may be [::1]. USER, PASSWORD and PATH are percent-decoded. There is no TLS here (rediss://): put
 * stunnel between.
 */
#include "common/limits.h"
#include <stdbool.h>
#include <stdint.h>

struct redis_host {
    char host[LIMIT_URL];
    uint16_t port;
};

struct redis_url {
    struct redis_host at; /* host "": path or sentinels are used */
    char path[108];       /* sun_path of a Unix socket */
    struct redis_host sentinels[LIMIT_SENTINELS];
    uint32_t n_sentinels;
    char master[LIMIT_SENTINEL_NAME + 1]; /* what the Sentinels call it */
    char user[LIMIT_URL];
    char password[LIMIT_URL]; /* "": none */
    uint32_t db;
    char address[4 * LIMIT_URL]; /* for people: the URL without user and password */
};

/* 0, or -EINVAL and *why is what to tell the user (it never holds a part of the URL). */
int redis_url_parse(struct redis_url *out, const char *text, const char **why);
/* True if every host in it is this machine itself. */
bool redis_url_is_loopback(const struct redis_url *self);
