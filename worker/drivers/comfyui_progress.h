#pragma once
/*
 * comfyui_progress — how far one prompt is, from what ComfyUI says over its WebSocket. No I/O.
 *
 * Any node may tell progress, so the nodes whose bars are steps of the picture are known before:
 *  - a sampler: it has an input `latent_image`, or takes "{steps}" and is called a sampler;
 *  - an upscaler with a model: it has an input `upscale_model`;
 *  - if there is none of them, whatever takes "{steps}".
 * Each weighs as many steps as it is to do (an upscaler, a quarter of those asked for), and the
 * part that is done is the weighed part of all. It never goes back: a bar that begins again, as
 * tiles make it, changes nothing. A bar of another node counts as a sampler's that has not begun if
 * it is as long as the steps asked for (a sampler inside of a node that unfolds); else not at all.
 */
#include "common/limits.h"
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { COMFYUI_ID = 96 };

/* What a message says of the prompt. */
enum comfyui_news {
    COMFYUI_NOTHING, /* of it, or nothing new */
    COMFYUI_BEGUN,   /* it is drawn now */
    COMFYUI_WORK,    /* another node, or a bar has moved: `part` may have grown */
    COMFYUI_OVER,    /* its end is in the history */
};

struct comfyui_bar {
    char node[COMFYUI_ID];
    double weight; /* steps */
    double part;   /* 0..1 */
};

struct comfyui_progress {
    char id[COMFYUI_ID]; /* of the prompt; "": not known, nothing counts */
    struct comfyui_bar bars[LIMIT_COMFYUI_SAMPLERS];
    uint32_t n_bars;
    uint32_t steps;
    double part;      /* 0..1, never less than before */
    uint64_t bar_sum; /* of the last message of its kind: a repeated one is no news */
    uint64_t state_sum;
    char node[COMFYUI_ID]; /* that executes */
};

/* A new prompt of this workflow, places unfilled, with so many steps asked for. */
void comfyui_progress_begin(struct comfyui_progress *self, const json_t *workflow, uint32_t steps);
/* Whose news count from now on. False: it is no id to be asked by in a path. NULL is none. */
bool comfyui_progress_name(struct comfyui_progress *self, const char *id);
/* Takes in one text message; anything may stand in it. */
enum comfyui_news comfyui_progress_hear(struct comfyui_progress *self, const char *text,
                                        size_t length);
