#pragma once
/*
 * websocket_world — a door in this process: who asks for /ws gets a WebSocket that says what a test
 * wants, all else goes to the HTTP server behind it.
 */
#include "common/reactor.h"
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <czmq.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/listener.h>
#include <sodium.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DOOR_PAIRS = 64 };

struct door_pair {
    struct door *door;
    struct bufferevent *client, *server; /* server: NULL until something goes there */
    bool forwards;
};

struct door {
    struct event_base *base;
    struct evconnlistener *listener;
    uint16_t port, behind;
    struct door_pair pairs[DOOR_PAIRS]; /* never used twice */
    uint32_t n_pairs;
    struct bufferevent *socket; /* the WebSocket; NULL: none */
    uint32_t n_sockets;         /* that were asked for */
    const char *refusal;        /* NULL, or the answer to the handshake */
    const char *extra;          /* header lines in a good answer */
    bool bad_accept;
    char asked[1024]; /* the last handshake */
    void (*on_open)(struct door *door);
    void *context;
};

static inline void
door_say(struct door *door, const void *bytes, size_t length)
{
    cr_assert(door->socket != NULL, "no WebSocket is open");
    bufferevent_write(door->socket, bytes, length);
}

/* One unmasked frame. */
static inline void
door_frame(struct door *door, uint8_t first, const void *bytes, size_t length)
{
    uint8_t head[10] = { first, length < 126 ? (uint8_t)length : length < 65536 ? 126 : 127 };
    size_t n = length < 126 ? 0 : length < 65536 ? 2 : 8;
    for (size_t i = 0; i < n; i++) {
        head[2 + i] = (uint8_t)(length >> 8 * (n - 1 - i));
    }
    door_say(door, head, 2 + n);
    door_say(door, bytes, length);
}

static inline void
door_text(struct door *door, const char *text)
{
    door_frame(door, 0x81, text, strlen(text));
}

static inline void
door_drop_pair(struct door_pair *pair)
{
    if (pair->door->socket == pair->client) {
        pair->door->socket = NULL;
    }
    if (pair->client != NULL) {
        bufferevent_free(pair->client);
    }
    if (pair->server != NULL) {
        bufferevent_free(pair->server);
    }
    pair->client = pair->server = NULL;
}

/* The WebSocket is cut. */
static inline void
door_drop(struct door *door)
{
    for (uint32_t i = 0; i < door->n_pairs; i++) {
        if (door->socket != NULL && door->pairs[i].client == door->socket) {
            door_drop_pair(&door->pairs[i]);
        }
    }
}

static inline void
door_on_event(struct bufferevent *link, short what, void *context)
{
    (void)link;
    if ((what & BEV_EVENT_CONNECTED) == 0) {
        door_drop_pair(context);
    }
}

static inline void
door_on_server(struct bufferevent *link, void *context)
{
    struct door_pair *pair = context;
    bufferevent_write_buffer(pair->client, bufferevent_get_input(link));
}

static inline void
door_accept(struct door *door, struct bufferevent *link)
{
    const char *key = strstr(door->asked, "Sec-WebSocket-Key: ");
    char text[128];
    char accept[64];
    cr_assert(key != NULL);
    snprintf(text, sizeof text, "%.24s258EAFA5-E914-47DA-95CA-C5AB0DC85B11",
             key + strlen("Sec-WebSocket-Key: "));
    zdigest_t *digest = zdigest_new();
    zdigest_update(digest, (const byte *)text, strlen(text));
    sodium_bin2base64(accept, sizeof accept, zdigest_data(digest), zdigest_size(digest),
                      sodium_base64_VARIANT_ORIGINAL);
    zdigest_destroy(&digest);
    accept[0] = door->bad_accept ? '#' : accept[0];
    evbuffer_add_printf(bufferevent_get_output(link),
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                        "Connection: upgrade\r\nSec-WebSocket-Accept: %s\r\n%s\r\n",
                        accept, door->extra == NULL ? "" : door->extra);
}

static inline void
door_on_client(struct bufferevent *link, void *context)
{
    struct door_pair *pair = context;
    struct door *door = pair->door;
    struct evbuffer *input = bufferevent_get_input(link);
    if (door->socket == link) {
        return; /* what it says stays there, for the test to look at */
    }
    if (!pair->forwards) {
        struct evbuffer_ptr end = evbuffer_search(input, "\r\n\r\n", 4, NULL);
        char first[8] = { 0 };
        evbuffer_copyout(input, first, 7);
        if (end.pos < 0) {
            return;
        }
        if (strcmp(first, "GET /ws") == 0) {
            size_t length = (size_t)end.pos + 4;
            memset(door->asked, 0, sizeof door->asked);
            cr_assert(lt(sz, length, sizeof door->asked));
            evbuffer_remove(input, door->asked, length);
            door->n_sockets++;
            if (door->refusal != NULL) {
                bufferevent_write(link, door->refusal, strlen(door->refusal));
                return;
            }
            door_accept(door, link);
            door->socket = link;
            if (door->on_open != NULL) {
                door->on_open(door);
            }
            return;
        }
        struct sockaddr_in to = { .sin_family = AF_INET,
                                  .sin_port = htons(door->behind),
                                  .sin_addr = { htonl(INADDR_LOOPBACK) } };
        pair->server = bufferevent_socket_new(door->base, -1, BEV_OPT_CLOSE_ON_FREE);
        bufferevent_setcb(pair->server, door_on_server, NULL, door_on_event, pair);
        bufferevent_enable(pair->server, EV_READ | EV_WRITE);
        cr_assert(
            zero(int, bufferevent_socket_connect(pair->server, (struct sockaddr *)&to, sizeof to)));
        pair->forwards = true;
    }
    bufferevent_write_buffer(pair->server, input);
}

static inline void
door_on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *address,
               int length, void *context)
{
    struct door *door = context;
    struct door_pair *pair = &door->pairs[door->n_pairs++];
    (void)listener;
    (void)address;
    (void)length;
    cr_assert(le(u32, door->n_pairs, DOOR_PAIRS));
    *pair = (struct door_pair){ .door = door };
    pair->client = bufferevent_socket_new(door->base, fd, BEV_OPT_CLOSE_ON_FREE);
    bufferevent_setcb(pair->client, door_on_client, NULL, door_on_event, pair);
    bufferevent_enable(pair->client, EV_READ | EV_WRITE);
}

static inline void
door_open(struct door *door, struct reactor *reactor, uint16_t behind)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
    socklen_t length = sizeof at;
    door->base = reactor_base(reactor);
    door->behind = behind;
    door->listener = evconnlistener_new_bind(door->base, door_on_accept, door,
                                             LEV_OPT_CLOSE_ON_FREE | LEV_OPT_REUSEABLE, -1,
                                             (struct sockaddr *)&at, sizeof at);
    cr_assert(door->listener != NULL);
    getsockname(evconnlistener_get_fd(door->listener), (struct sockaddr *)&at, &length);
    door->port = ntohs(at.sin_port);
}

static inline void
door_close(struct door *door)
{
    for (uint32_t i = 0; i < door->n_pairs; i++) {
        door_drop_pair(&door->pairs[i]);
    }
    if (door->listener != NULL) {
        evconnlistener_free(door->listener);
    }
}
