#include "worker/drivers/comfyui_watch.h"
#include "common/log.h"
#include "worker/drivers/websocket.h"
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CLIENT_BYTES = 16, ADDRESS = 64 };

struct comfyui_watch {
    struct comfyui_watch_config config;
    struct websocket *socket;
    struct timer *again;
    enum comfyui_watching state;
    int64_t pause_ms;
    bool complained;
    char address[ADDRESS];
    char client[2 * CLIENT_BYTES + 1];
};

static void
try_later(struct comfyui_watch *self)
{
    websocket_close(&self->socket);
    self->state = COMFYUI_AWAY;
    timer_in_ms(self->again, self->pause_ms);
    self->pause_ms *= 2;
    if (self->pause_ms > LIMIT_WEBSOCKET_AGAIN_MAX_MS) {
        self->pause_ms = LIMIT_WEBSOCKET_AGAIN_MAX_MS;
    }
}

static void
complain(struct comfyui_watch *self, const char *why)
{
    if (!self->complained) { /* once until it is had again */
        self->complained = true;
        log_warn("comfyui-steps-not-told url=%s why=\"%s\"", self->config.kit->host->url, why);
    }
}

static void
on_open(void *context)
{
    struct comfyui_watch *self = context;
    self->state = COMFYUI_OPEN;
    if (self->complained) {
        self->complained = false;
        log_info("comfyui-steps-told url=%s", self->config.kit->host->url);
    }
    self->config.on_change(self->config.context);
}

static void
on_text(void *context, const char *text, size_t length)
{
    struct comfyui_watch *self = context;
    self->pause_ms = LIMIT_WEBSOCKET_AGAIN_MS; /* it works: a loss is a new one */
    self->config.on_text(self->config.context, text, length);
}

static void
on_end(void *context, const char *why)
{
    struct comfyui_watch *self = context;
    bool was_open = self->state == COMFYUI_OPEN;
    try_later(self);
    if (!was_open) { /* a connection may break: it is opened once more before anybody is told */
        complain(self, why);
        self->config.on_change(self->config.context);
    }
}

static void
try_to_open(struct comfyui_watch *self)
{
    char url[KIT_URL_BYTES];
    char authorization[KIT_AUTHORIZATION];
    struct websocket_config config = { .url = url,
                                       .address = self->address,
                                       .authorization = authorization,
                                       .on_open = on_open,
                                       .on_text = on_text,
                                       .on_end = on_end,
                                       .context = self };
    snprintf(url, sizeof url, "%s/ws?clientId=%s", self->config.kit->host->url, self->client);
    kit_authorization(self->config.kit, authorization);
    int rc = websocket_open(&self->socket, self->config.kit->host->reactor, &config);
    if (rc == 0) {
        self->state = COMFYUI_OPENING;
    } else if (rc == -EPROTONOSUPPORT) {
        self->state = COMFYUI_NEVER;
        complain(self, "no WebSocket over https");
    } else {
        try_later(self);
        complain(self, strerror(-rc));
    }
}

static void
on_again(void *context)
{
    struct comfyui_watch *self = context;
    try_to_open(self);
    if (self->state != COMFYUI_OPENING) {
        self->config.on_change(self->config.context);
    }
}

int
comfyui_watch_new(struct comfyui_watch **out, const struct comfyui_watch_config *config)
{
    unsigned char random[CLIENT_BYTES];
    struct comfyui_watch *self = calloc(1, sizeof *self);
    if (self == NULL || timer_new(&self->again, config->kit->host->reactor, on_again, self) != 0) {
        free(self);
        return -ENOMEM;
    }
    self->config = *config;
    self->pause_ms = LIMIT_WEBSOCKET_AGAIN_MS;
    randombytes_buf(random, sizeof random);
    sodium_bin2hex(self->client, sizeof self->client, random, sizeof random);
    *out = self;
    return 0;
}

void
comfyui_watch_destroy(struct comfyui_watch **self_p)
{
    if (*self_p != NULL) {
        websocket_close(&(*self_p)->socket);
        timer_destroy(&(*self_p)->again);
        free(*self_p);
        *self_p = NULL;
    }
}

void
comfyui_watch_begin(struct comfyui_watch *self, const char *address)
{
    snprintf(self->address, sizeof self->address, "%s", address);
    if (self->state == COMFYUI_OFF) {
        try_to_open(self);
    }
}

void
comfyui_watch_forget(struct comfyui_watch *self)
{
    websocket_close(&self->socket);
    timer_stop(self->again);
    self->pause_ms = LIMIT_WEBSOCKET_AGAIN_MS;
    self->state = COMFYUI_OFF;
}

enum comfyui_watching
comfyui_watch_state(const struct comfyui_watch *self)
{
    return self->state;
}

const char *
comfyui_watch_client(const struct comfyui_watch *self)
{
    return self->client;
}
