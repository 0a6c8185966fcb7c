#pragma once
/*
 * redis_url — where a Redis is and how to log in, read from one string.
 *
 *     redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]        PORT 6379, DB 0 if absent; HOST may be
 * [::1] unix:///PATH[?password=P][&user=U][&db=N]
 *
 * USER, PASSWORD and PATH are percent-decoded. There is no TLS here (rediss://): put stunnel
 * between.
 */
#include "common/limits.h"
#include <stdint.h>

struct redis_url {
    char host[LIMIT_URL]; /* "": path is used */
    uint16_t port;
    char path[108]; /* sun_path of a Unix socket */
    char user[LIMIT_URL];
    char password[LIMIT_URL]; /* "": none */
    uint32_t db;
    char address[LIMIT_URL + 16]; /* for people: the URL without user and password */
};

/* 0, or -EINVAL and *why is what to tell the user (it never holds a part of the URL). */
int redis_url_parse(struct redis_url *out, const char *text, const char **why);
