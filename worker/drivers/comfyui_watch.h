#pragma once
/*
 * comfyui_watch — the WebSocket by which ComfyUI tells what it does for one client_id; an aid that
 * may be missing.
 *
 *     OFF --begin--> OPENING --> OPEN            AWAY: opened again after a pause, which doubles
 *      |                |  ^------- | -- AWAY          from LIMIT_WEBSOCKET_AGAIN_MS to _MAX_MS
 *      `-- https: NEVER `-----------`---> ^
 */
#include "worker/drivers/kit.h"

enum comfyui_watching {
    COMFYUI_OFF,
    COMFYUI_OPENING,
    COMFYUI_OPEN,
    COMFYUI_AWAY,
    COMFYUI_NEVER, /* it cannot be had of this server */
};

struct comfyui_watch;

struct comfyui_watch_config {
    struct kit *kit; /* whose server; outlives the watch */
    void (*on_text)(void *context, const char *text, size_t length);
    /* It has opened, or an attempt to open it has failed. May not close the watch. */
    void (*on_change)(void *context);
    void *context;
};

int comfyui_watch_new(struct comfyui_watch **out, const struct comfyui_watch_config *config);
void comfyui_watch_destroy(struct comfyui_watch **self_p);
/* The server answers at this address: opens the socket if that was never tried. */
void comfyui_watch_begin(struct comfyui_watch *self, const char *address);
/* The server answers nobody: it is opened at once when it does. */
void comfyui_watch_forget(struct comfyui_watch *self);
enum comfyui_watching comfyui_watch_state(const struct comfyui_watch *self);
/* What prompts are sent with, so that their news come here. */
const char *comfyui_watch_client(const struct comfyui_watch *self);
