#include "worker/drivers/websocket.h"
#include "common/scope.h"
#include "worker/drivers/websocket_frames.h"
#include <arpa/inet.h>
#include <assert.h>
#include <curl/curl.h>
#include <czmq.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { KEY_BYTES = 16, SHA1_BYTES = 20, BLOCK = 4096, UNREAD_MAX = 65536, UNSENT_MAX = 16384 };
enum { CLOSE_NORMAL = 1000, CLOSE_PROTOCOL = 1002 };

struct websocket {
    struct bufferevent *link;
    struct timer *timer; /* until it is open, then of its silence */
    struct websocket_frames frames;
    char accept[sodium_base64_ENCODED_LEN(SHA1_BYTES, sodium_base64_VARIANT_ORIGINAL)];
    bool open;  /* the handshake is done */
    bool asked; /* a ping is out, and nothing has come since */
    bool ended;
    bool *gone; /* while a callback runs that may close it: set then */
    void (*on_open)(void *context);
    void (*on_text)(void *context, const char *text, size_t length);
    void (*on_end)(void *context, const char *why);
    void *context;
};

/* -- what is said -- */

static size_t
control_frame(uint8_t out[WEBSOCKET_FRAME], enum websocket_opcode opcode, const void *bytes,
              size_t length)
{
    uint8_t mask[4];
    randombytes_buf(mask, sizeof mask);
    return websocket_control(out, opcode, bytes, length, mask);
}

/* A last word, past the buffer: nobody waits until it is sent. */
static void
say_close(struct websocket *self, uint16_t code)
{
    uint8_t frame[WEBSOCKET_FRAME];
    uint8_t reason[2] = { (uint8_t)(code >> 8), (uint8_t)code };
    size_t length = control_frame(frame, WEBSOCKET_OP_CLOSE, reason, sizeof reason);
    if (self->open && evbuffer_get_length(bufferevent_get_output(self->link)) == 0) {
        send(bufferevent_getfd(self->link), frame, length, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
}

static void
end(struct websocket *self, const char *why)
{
    if (self->ended) {
        return;
    }
    self->ended = true;
    timer_stop(self->timer);
    bufferevent_disable(self->link, EV_READ | EV_WRITE);
    self->on_end(self->context, why); /* may close self */
}

static void
say(struct websocket *self, enum websocket_opcode opcode, const void *bytes, size_t length)
{
    uint8_t frame[WEBSOCKET_FRAME];
    if (evbuffer_get_length(bufferevent_get_output(self->link)) <= UNSENT_MAX) {
        bufferevent_write(self->link, frame, control_frame(frame, opcode, bytes, length));
    } /* else it does not read: its silence, or ours for it, ends it */
}

/* -- what is heard -- */

/* False: the answer is not whole, or self has ended. */
static bool
read_answer(struct websocket *self)
{
    struct evbuffer *input = bufferevent_get_input(self->link);
    size_t length = evbuffer_get_length(input);
    size_t used = 0;
    int status = 0;
    char why[64];
    const char *bytes = (const char *)evbuffer_pullup(input, -1);
    switch (
        websocket_answer_read(bytes == NULL ? "" : bytes, length, self->accept, &status, &used)) {
    case WEBSOCKET_UNFINISHED:
        return false;
    case WEBSOCKET_REFUSED:
        snprintf(why, sizeof why, status == 0 ? "no HTTP" : "HTTP %d", status);
        end(self, why);
        return false;
    case WEBSOCKET_ACCEPTED:
        break;
    }
    evbuffer_drain(input, used);
    self->open = true;
    self->on_open(self->context);
    return true;
}

static void
on_event_of(struct websocket *self, enum websocket_event event)
{
    const struct websocket_frames *frames = &self->frames;
    switch (event) {
    case WEBSOCKET_TEXT:
        self->on_text(self->context, frames->text, frames->text_length);
        return;
    case WEBSOCKET_PING:
        say(self, WEBSOCKET_OP_PONG, frames->control, frames->control_length);
        return;
    case WEBSOCKET_CLOSE:
        say_close(self, CLOSE_NORMAL);
        end(self, "closed by the server");
        return;
    case WEBSOCKET_BROKEN:
        say_close(self, CLOSE_PROTOCOL);
        end(self, "no WebSocket frames");
        return;
    case WEBSOCKET_NONE:
    case WEBSOCKET_PONG:
        return;
    }
}

/* All that is buffered; self may be gone after that. */
static void
read_frames(struct websocket *self, const bool *gone)
{
    struct evbuffer *input = bufferevent_get_input(self->link);
    uint8_t block[BLOCK];
    int n = 0;
    while (!*gone && !self->ended && (n = evbuffer_remove(input, block, sizeof block)) > 0) {
        size_t at = 0;
        while (!*gone && !self->ended && at < (size_t)n) {
            size_t used = 0;
            enum websocket_event event =
                websocket_frames_read(&self->frames, block + at, (size_t)n - at, &used);
            at += used;
            on_event_of(self, event);
        }
    }
}

static void
on_readable(struct bufferevent *link, void *context)
{
    struct websocket *self = context;
    bool gone = false;
    (void)link;
    self->gone = &gone;
    if (self->open) {
        self->asked = false;
        timer_in_ms(self->timer, LIMIT_WEBSOCKET_QUIET_MS);
    } else if (read_answer(self) && !gone) {
        timer_in_ms(self->timer, LIMIT_WEBSOCKET_QUIET_MS);
    }
    if (!gone && self->open) {
        read_frames(self, &gone);
    }
    if (!gone) {
        self->gone = NULL;
    }
}

static void
on_link(struct bufferevent *link, short what, void *context)
{
    (void)link;
    if ((what & BEV_EVENT_CONNECTED) == 0) {
        int error = EVUTIL_SOCKET_ERROR();
        end(context, (what & BEV_EVENT_ERROR) != 0 && error != 0 ? strerror(error)
                                                                 : "the connection was closed");
    }
}

static void
on_quiet(void *context)
{
    struct websocket *self = context;
    if (!self->open || self->asked) {
        end(self, self->open ? "silent" : "no answer");
        return;
    }
    self->asked = true;
    say(self, WEBSOCKET_OP_PING, NULL, 0);
    timer_in_ms(self->timer, LIMIT_WEBSOCKET_QUIET_MS);
}

/* -- opening -- */

struct target {
    char *scheme, *host, *port, *path, *query;
};

static void
target_clear(struct target *target)
{
    curl_free(target->scheme);
    curl_free(target->host);
    curl_free(target->port);
    curl_free(target->path);
    curl_free(target->query);
}

static int
target_read(struct target *out, const char *url)
{
    CURLU *parsed = curl_url();
    bool good = parsed != NULL && curl_url_set(parsed, CURLUPART_URL, url, 0) == CURLUE_OK &&
                curl_url_get(parsed, CURLUPART_SCHEME, &out->scheme, 0) == CURLUE_OK &&
                curl_url_get(parsed, CURLUPART_HOST, &out->host, 0) == CURLUE_OK &&
                curl_url_get(parsed, CURLUPART_PORT, &out->port, CURLU_DEFAULT_PORT) == CURLUE_OK &&
                curl_url_get(parsed, CURLUPART_PATH, &out->path, 0) == CURLUE_OK;
    if (good && curl_url_get(parsed, CURLUPART_QUERY, &out->query, 0) != CURLUE_OK) {
        out->query = NULL; /* it has none */
    }
    curl_url_cleanup(parsed);
    if (!good) {
        return -EINVAL;
    }
    return strcasecmp(out->scheme, "http") == 0 ? 0 : -EPROTONOSUPPORT;
}

static int
connect_to(struct websocket *self, struct event_base *base, const char *address, const char *port)
{
    struct sockaddr_in v4 = { .sin_family = AF_INET };
    struct sockaddr_in6 v6 = { .sin6_family = AF_INET6 };
    bool is_v4 = inet_pton(AF_INET, address, &v4.sin_addr) == 1;
    if (!is_v4 && inet_pton(AF_INET6, address, &v6.sin6_addr) != 1) {
        return -EINVAL;
    }
    v4.sin_port = v6.sin6_port = htons((uint16_t)strtoul(port, NULL, 10));
    int fd = socket(is_v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -errno;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
    /* Deferred: a connection that is refused at once is told from the loop, too. */
    self->link = bufferevent_socket_new(base, fd, BEV_OPT_CLOSE_ON_FREE | BEV_OPT_DEFER_CALLBACKS);
    if (self->link == NULL) {
        close(fd);
        return -ENOMEM;
    }
    bufferevent_setcb(self->link, on_readable, NULL, on_link, self);
    bufferevent_setwatermark(self->link, EV_READ, 0, UNREAD_MAX);
    bufferevent_enable(self->link, EV_READ | EV_WRITE);
    int rc = is_v4 ? bufferevent_socket_connect(self->link, (struct sockaddr *)&v4, sizeof v4)
                   : bufferevent_socket_connect(self->link, (struct sockaddr *)&v6, sizeof v6);
    return rc == 0 ? 0 : -EIO;
}

/* What the server makes of the key, as RFC 6455 4.2.2 wants it. */
static void
accept_of(const char *key, char *out, size_t size)
{
    static const char suffix[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    zdigest_t *digest = zdigest_new();
    if (digest == NULL) {
        abort(); /* out of memory */
    }
    zdigest_update(digest, (const byte *)key, strlen(key));
    zdigest_update(digest, (const byte *)suffix, sizeof suffix - 1);
    assert(zdigest_size(digest) == SHA1_BYTES);
    sodium_bin2base64(out, size, zdigest_data(digest), SHA1_BYTES, sodium_base64_VARIANT_ORIGINAL);
    zdigest_destroy(&digest);
}

static void
ask(struct websocket *self, const struct target *target, const char *authorization)
{
    unsigned char random[KEY_BYTES];
    char key[sodium_base64_ENCODED_LEN(KEY_BYTES, sodium_base64_VARIANT_ORIGINAL)];
    randombytes_buf(random, sizeof random);
    sodium_bin2base64(key, sizeof key, random, sizeof random, sodium_base64_VARIANT_ORIGINAL);
    accept_of(key, self->accept, sizeof self->accept);
    evbuffer_add_printf(bufferevent_get_output(self->link),
                        "GET %s%s%s HTTP/1.1\r\nHost: %s:%s\r\nUpgrade: websocket\r\n"
                        "Connection: Upgrade\r\nSec-WebSocket-Key: %s\r\n"
                        "Sec-WebSocket-Version: 13\r\n%s%s\r\n",
                        target->path, target->query == NULL ? "" : "?",
                        target->query == NULL ? "" : target->query, target->host, target->port, key,
                        authorization, authorization[0] == '\0' ? "" : "\r\n");
}

int
websocket_open(struct websocket **out, struct reactor *reactor,
               const struct websocket_config *config)
{
    CLEANUP(target_clear) struct target target = { 0 };
    CLEANUP(websocket_close) struct websocket *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    self->on_open = config->on_open;
    self->on_text = config->on_text;
    self->on_end = config->on_end;
    self->context = config->context;
    int rc = target_read(&target, config->url);
    rc = rc ? rc : timer_new(&self->timer, reactor, on_quiet, self);
    rc = rc ? rc : connect_to(self, reactor_base(reactor), config->address, target.port);
    if (rc != 0) {
        return rc;
    }
    ask(self, &target, config->authorization);
    timer_in_ms(self->timer, LIMIT_WEBSOCKET_OPEN_MS);
    *out = self;
    self = NULL;
    return 0;
}

void
websocket_close(struct websocket **self_p)
{
    struct websocket *self = *self_p;
    if (self == NULL) {
        return;
    }
    *self_p = NULL;
    if (self->gone != NULL) {
        *self->gone = true;
    }
    if (self->link != NULL) {
        if (!self->ended) {
            say_close(self, CLOSE_NORMAL);
        }
        bufferevent_free(self->link);
    }
    timer_destroy(&self->timer);
    websocket_frames_clear(&self->frames);
    free(self);
}
