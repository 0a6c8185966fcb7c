#pragma once
/*
 * gradio_app — what an app tells of itself: where its API is, which of its functions draws, and
 * what each of that function's arguments means.
 *
 * An argument is known by its parameter's name or its label: one that holds "prompt", "negative",
 * "width", "height", "step", "guidance" or "cfg", "seed", "random" (with a seed; set to false).
 * Any other gets its default. A function is taken if it has a prompt, width, height, steps and seed
 * and returns an image or a gallery; if several do, the user names one.
 */
#include "worker/drivers/kit.h"

enum gradio_meaning {
    GRADIO_PROMPT,
    GRADIO_WIDTH,
    GRADIO_HEIGHT,
    GRADIO_STEPS,
    GRADIO_SEED,
    GRADIO_NEEDED, /* those above must be there */
    GRADIO_RANDOM = GRADIO_NEEDED,
    GRADIO_NEGATIVE,
    GRADIO_GUIDANCE,
    GRADIO_DEFAULT, /* the app's own value */
    GRADIO_MEANING_COUNT,
};

struct gradio_argument {
    enum gradio_meaning meaning;
    json_t *value; /* of GRADIO_DEFAULT */
};

struct gradio_app {
    char prefix[32]; /* of its API: "/gradio_api", or "" */
    char app_id[64]; /* changes when it starts anew */
    char name[64];   /* of the function, with its '/' */
    json_int_t fn_index;
    bool generator; /* its function yields: it can be stopped while it runs */
    struct gradio_argument arguments[LIMIT_GRADIO_ARGUMENTS];
    size_t n_arguments;
};

/* An app_id as text: Gradio's are numbers of 64 bits. */
void gradio_app_id(const json_t *id, char *out, size_t size);
/* Reads GET /config: prefix and app_id. NULL, or what is wrong. */
const char *gradio_app_read_config(struct gradio_app *out, const json_t *config);
/* Finds the function; `endpoint`: its name, with or without '/', or "". NULL, or what is wrong, in
 * a static text. Both documents are of the same app. */
const char *gradio_app_learn(struct gradio_app *out, const json_t *config, const json_t *info,
                             const char *endpoint);
/* The `data` of a call. NULL: guidance is asked for and the function has no such argument. */
json_t *gradio_app_data(const struct gradio_app *self, const struct kit *kit, uint32_t steps);
/* The path of the first file in the answer of a call; NULL: there is none. */
const char *gradio_app_file(const json_t *data);
void gradio_app_clear(struct gradio_app *self);
