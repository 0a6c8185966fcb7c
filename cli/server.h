#pragma once
/*
 * server — asks a Drawbar server one question at a time, by libcurl, on the calling thread.
 *
 * While it waits, on_tick is called every LIMIT_TICK_MS or so: it redraws, and ends the question by
 * returning other than 0. Loopback addresses are never asked through a proxy.
 */
#include "common/limits.h"
#include <stddef.h>
#include <stdint.h>

struct server; /* opaque */

struct question {
    const char *method;     /* "GET", "POST", "DELETE" */
    const char *path;       /* "/v1/jobs" */
    const char *headers[3]; /* "Name: value", NULL-terminated unless full */
    const char *body;       /* JSON, or NULL */
    int64_t limit_ms;       /* of the whole question; 0: none, then quiet_ms holds */
    int64_t quiet_ms;       /* with limit_ms 0: so long without a byte ends it with -ETIMEDOUT */
    /* Not NULL: takes the bytes of an answer 200 as they come; not 0 ends the question with that.
     */
    int (*on_bytes)(void *context, const char *bytes, size_t length);
    void *context;
};

struct answer {
    int status; /* of HTTP; 0: none came */
    char type[64];
    char *body; /* ends in a NUL; "" if on_bytes took it */
    size_t length;
    char trouble[256]; /* for people, when there is no answer */
};

/* `address` is http(s)://HOST:PORT, or HOST:PORT. 0, -EINVAL: it is no address, -ENOMEM. */
int server_new(struct server **out, const char *address);
void server_destroy(struct server **self_p);
const char *server_address(const struct server *self); /* without a slash at its end */
void server_on_tick(struct server *self, int (*on_tick)(void *context), void *context);
/* 0: an answer came, whatever its status. -ECONNREFUSED: nobody took the connection. -ECONNRESET:
 * it broke. -ETIMEDOUT, -EMSGSIZE (larger than a picture may be). Or what on_tick or on_bytes gave.
 * Replaces *answer, which answer_clear() frees; it may be all zero before. */
int server_ask(struct server *self, const struct question *question, struct answer *answer);
/* Waits that long, ticking. 0, or what on_tick gave. */
int server_pause(struct server *self, int64_t pause_ms);
void answer_clear(struct answer *answer);
