#pragma once
/*
 * websocket — a client's WebSocket (RFC 6455) on a reactor; it listens, and says only what the
 * protocol wants: pongs, pings when it is quiet, a close.
 *
 *     websocket_open --> on_open --> on_text* --> on_end      websocket_close, at any time
 *                   `------------------------------^
 *
 * Without TLS. The host's name is not looked up, which could wait: the caller knows the address, of
 * an answer that libcurl had from the same server. Open within LIMIT_WEBSOCKET_OPEN_MS or ended;
 * after LIMIT_WEBSOCKET_QUIET_MS without a byte it asks, after as long again it ends.
 */
#include "common/reactor.h"
#include <stddef.h>

struct websocket;

struct websocket_config {
    const char *url;           /* http://HOST[:PORT]/PATH[?QUERY] */
    const char *address;       /* of the host: numeric */
    const char *authorization; /* a header line; "": none */
    void (*on_open)(void *context);
    /* A whole text message, NUL-terminated, for the time of the call. Perhaps no UTF-8. */
    void (*on_text)(void *context, const char *text, size_t length);
    /* Nothing follows; `why` is for people. The socket is still to be closed, here or later. */
    void (*on_end)(void *context, const char *why);
    void *context;
};

/* Begins to open it. The strings are not kept; no callback comes from inside. 0, -EPROTONOSUPPORT
 * (https), -EINVAL (URL or address), or another -errno. */
int websocket_open(struct websocket **out, struct reactor *reactor,
                   const struct websocket_config *config);
/* Says that it closes and waits for nothing. Also inside a callback; NULL is fine. */
void websocket_close(struct websocket **self_p);
