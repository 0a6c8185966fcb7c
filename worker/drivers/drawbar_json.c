#include "worker/drivers/drawbar_json.h"
#include "common/scope.h"
#include <assert.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const state_names[VIEW_STATE_COUNT] = {
    [VIEW_QUEUED] = "queued", [VIEW_RUNNING] = "running",     [VIEW_SUCCEEDED] = "succeeded",
    [VIEW_FAILED] = "failed", [VIEW_CANCELLED] = "cancelled",
};

static void
free_json(json_t **json_p)
{
    json_decref(*json_p);
}

/* An object, or NULL. */
static json_t *
load(const void *text, size_t length)
{
    json_error_t error;
    json_t *root = length == 0 ? NULL : json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
    if (root != NULL && !json_is_object(root)) {
        json_decref(root);
        root = NULL;
    }
    return root;
}

/* A number of 0..UINT32_MAX; 0 if it is absent or something else. */
static uint32_t
number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    double real = json_is_number(value) ? json_number_value(value) : 0;
    return real > 0 && real <= UINT32_MAX ? (uint32_t)real : 0;
}

/* What may stand in a log line between quotes. */
static char
printable(char c)
{
    bool control = (unsigned char)c < ' ' || c == 0x7F || c == '"';
    if (control) {
        return '?';
    }
    return c;
}

static bool
is_inside_character(char c)
{
    return ((unsigned char)c & 0xC0U) == 0x80U;
}

/* A text, cut to the size and printable; a whole number is printed; anything else is "". */
static void
text_of(const json_t *value, char *out, size_t size)
{
    if (json_is_integer(value)) {
        snprintf(out, size, "%lld", (long long)json_integer_value(value));
        return;
    }
    const char *text = json_is_string(value) ? json_string_value(value) : "";
    size_t length = 0;
    for (; text[length] != '\0' && length + 1 < size; length++) {
        out[length] = printable(text[length]);
    }
    while (length > 0 && is_inside_character(text[length])) {
        length--; /* cut before a character, never inside */
    }
    out[length] = '\0';
}

const char *
job_view_state_name(enum view_state state)
{
    assert(state < VIEW_STATE_COUNT);
    return state_names[state];
}

bool
job_view_has_ended(const struct job_view *view)
{
    return view->state == VIEW_SUCCEEDED || view->state == VIEW_FAILED ||
           view->state == VIEW_CANCELLED;
}

static bool
state_parse(const json_t *value, enum view_state *out)
{
    for (size_t i = 0; json_is_string(value) && i < ARRAY_LENGTH(state_names); i++) {
        if (strcmp(json_string_value(value), state_names[i]) == 0) {
            *out = (enum view_state)i;
            return true;
        }
    }
    return false;
}

bool
job_view_parse(struct job_view *out, const void *text, size_t length)
{
    CLEANUP(free_json) json_t *root = load(text, length);
    struct job_view view = { 0 };
    if (root == NULL || !state_parse(json_object_get(root, "state"), &view.state)) {
        return false;
    }
    view.step = number(root, "step");
    view.steps = number(root, "steps");
    view.gpu_ms = number(root, "gpu_ms");
    text_of(json_object_get(root, "epoch"), view.epoch, sizeof view.epoch);
    const json_t *error = json_object_get(root, "error");
    text_of(json_object_get(error, "code"), view.error_code, sizeof view.error_code);
    text_of(json_object_get(error, "message"), view.message, sizeof view.message);
    const json_t *images = json_object_get(root, "images");
    view.n_images = (uint32_t)json_array_size(images);
    for (size_t i = 0; i < json_array_size(images) && i < LIMIT_IMAGES; i++) {
        const json_t *image = json_array_get(images, i);
        view.has_seed[i] = json_is_integer(json_object_get(image, "seed"));
        view.seeds[i] = number(image, "seed");
    }
    *out = view;
    return true;
}

void
health_parse(struct health *out, const void *text, size_t length)
{
    CLEANUP(free_json) json_t *root = load(text, length);
    if (root == NULL || !json_is_boolean(json_object_get(root, "ready"))) {
        snprintf(out->message, sizeof out->message,
                 "/healthz answers no JSON object with \"ready\"");
        text_of(NULL, out->model, sizeof out->model);
        return;
    }
    out->answered = true;
    out->ready = json_is_true(json_object_get(root, "ready"));
    out->simulated = json_is_true(json_object_get(root, "simulated"));
    out->max_pixels = number(root, "max_pixels");
    out->last_step_ms = number(root, "last_step_ms");
    text_of(json_object_get(root, "model"), out->model, sizeof out->model);
    text_of(json_object_get(root, "device"), out->device, sizeof out->device);
    text_of(json_object_get(root, "epoch"), out->epoch, sizeof out->epoch);
}

void
problem_text(const void *text, size_t length, char *out, size_t size)
{
    CLEANUP(free_json) json_t *root = load(text, length);
    const json_t *error = json_object_get(root, "error");
    const json_t *message = json_object_get(json_is_object(error) ? error : root, "message");
    message = json_is_string(message) ? message : json_object_get(root, "detail");
    text_of(message, out, size);
    if (out[0] != '\0') {
        return;
    }
    size_t i = 0;
    for (; i < length && i + 1 < size; i++) {
        char c = ((const char *)text)[i];
        out[i] = (char)((unsigned char)c >= 0x80 ? '?' : printable(c)); /* may be no UTF-8 */
    }
    out[i] = '\0';
    if (i == 0) {
        snprintf(out, size, "no reason given");
    }
}

char *
job_text(const struct draw_request *request)
{
    const struct envelope *envelope = request->envelope;
    const struct job_body *body = request->body;
    CLEANUP(free_json)
    json_t *root =
        json_pack("{s:s, s:s%, s:i, s:i, s:i, s:f, s:I, s:i, s:s}", "id", request->id, "prompt",
                  (const char *)body->prompt.bytes, (size_t)body->prompt.length, "width",
                  (int)envelope->width, "height", (int)envelope->height, "steps",
                  (int)envelope->steps, "guidance", body->guidance, "seed", (json_int_t)body->seed,
                  "n", (int)envelope->n, "format", "png");
    if (root == NULL) {
        return NULL;
    }
    if (body->negative_prompt.length > 0 &&
        json_object_set_new(
            root, "negative_prompt",
            json_stringn(body->negative_prompt.bytes, body->negative_prompt.length)) != 0) {
        return NULL;
    }
    return json_dumps(root, JSON_COMPACT | JSON_REAL_PRECISION(9));
}
