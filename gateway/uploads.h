#pragma once
/*
 * uploads — the listener that workers put their pictures to; one route, one kind of caller.
 *
 *     PUT /upload/<job>/<grant>/<i>?epoch=<8 hex digits>
 *     Authorization: Grant <token>        Content-Type: image/png | image/jpeg | image/webp
 *
 *     201 {"bytes":N,"sha256":"<hex>"}    written and durable
 *     200 the same body                   the same bytes were there already
 *     400 a part of the path or the token is malformed, or the epoch is missing
 *     401 no grant                        403 the grant is forged, or not for this picture
 *     404 no such route                   405 not PUT (Allow)
 *     409 other bytes are there           410 the grant is over: the worker asks with REGRANT
 *     413 over LIMIT_PICTURE_BYTES        415 not one of the three types
 *     422 the bytes are not of the type   500 the directory failed (logged)
 *     503 no keys yet (Retry-After)       507 no space (Retry-After)
 *
 * All errors are application/problem+json. The right is checked before the bytes are looked at. At
 * most max_parallel connections are open, further ones wait to be accepted, and each answer closes
 * its connection: bodies are whole in memory. Writing blocks the reactor, so the reactor must be of
 * a thread that serves nobody else.
 */
#include "common/reactor.h"
#include "gateway/picture_dir.h"
#include "proto/grant.h"
#include <stdatomic.h>

struct uploads;

enum { UPLOAD_KEYS = 2 }; /* the present one and, while keys change, the one before or after */

struct upload_keys {
    uint8_t keys[UPLOAD_KEYS][GRANT_KEY_BYTES];
    uint32_t count;              /* 0: not known yet */
    int64_t redis_minus_mono_ms; /* Redis TIME less clock_mono_ms() */
};

struct uploads_config {
    const char *host;
    uint16_t port; /* 0: any */
    uint32_t max_parallel;
    const struct picture_dir *dir; /* outlives the listener */
    const atomic_bool *full;       /* true: 507; outlives the listener */
};

/* Binds and listens. 0, or -errno as http_server_new(). */
int uploads_new(struct uploads **out, struct reactor *reactor, const struct uploads_config *config);
void uploads_destroy(struct uploads **self_p); /* cuts what is unfinished */
uint16_t uploads_port(const struct uploads *self);
void uploads_set_keys(struct uploads *self, const struct upload_keys *keys);
/* As http_server_drain(), without lingering: a worker that is refused asks another gateway. */
void uploads_drain(struct uploads *self, int64_t limit_ms, reactor_fn done, void *context);
