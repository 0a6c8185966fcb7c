/*
 * openai — the driver of servers with OpenAI's images API: vLLM-Omni, SGLang, sd-server of
 * stable-diffusion.cpp, and others.
 *
 *     draw       POST /v1/images/generations, answered when the picture is there; one after the
 *                other, each with a seed (SGLang's own default is always the same one)
 *     interrupt  none: the answer is waited for and thrown away
 *
 * The address may end in /v1 as such servers tell it, or not. What OpenAI has no word for is said
 * in vLLM-Omni's: num_inference_steps, guidance_scale (0 is off), seed, negative_prompt; to an
 * sd-server, which tells itself by the name of its model, in its own, inside the prompt.
 */
#include "common/scope.h"
#include "worker/drivers/sd_cpp.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct openai {
    struct kit kit;
    uint32_t place;                   /* of the health check that worked last, or is being tried */
    uint32_t tried;                   /* by the probe under way */
    char model[LIMIT_MODEL_NAME + 1]; /* as the server calls it */
};

/* What every sd-server calls its model, whichever it is. */
static const char sd_server_model[] = "sd-cpp-local";

/* vLLM-Omni has the first, SGLang the second; the third names no model. */
static const char *const places[] = { "/v1/models", "/models", "/health" };

static void draw_next(struct openai *self);

/* `path` begins with /v1 or is another; an address that ends in /v1 needs no second one. */
static const char *
path_of(const struct openai *self, const char *path)
{
    size_t length = strlen(self->kit.host->url);
    bool has = length > 3 && strcmp(self->kit.host->url + length - 3, "/v1") == 0;
    return has && strncmp(path, "/v1/", 4) == 0 ? path + 3 : path;
}

static void
on_drawn(void *context, const struct http_response *response)
{
    struct openai *self = context;
    bool failed = false;
    kit_over(&self->kit.main);
    timer_stop(self->kit.pause);
    if (self->kit.interrupted) {
        kit_free(&self->kit); /* it has answered: the GPU is free */
        return;
    }
    if (response->status == 0) {
        kit_fail_lost(&self->kit, response, "while drawing");
        return;
    }
    if (response->status != 200) {
        kit_fail_status(&self->kit, response, true);
        return;
    }
    CLEANUP(kit_json_free) json_t *root = kit_json(response);
    kit_taken(&self->kit);
    if (self->kit.interrupted) {
        return;
    }
    const json_t *first = json_array_get(json_object_get(root, "data"), 0);
    if (!kit_picture_base64(&self->kit, json_object_get(first, "b64_json"), &failed)) {
        return;
    }
    if (self->kit.made < self->kit.order.n) {
        draw_next(self);
    } else {
        kit_made_all(&self->kit);
    }
}

static void
draw_next(struct openai *self)
{
    const struct kit_order *order = &self->kit.order;
    const struct driver_words *words = self->kit.host->words;
    char size[24];
    snprintf(size, sizeof size, "%ux%u", order->width, order->height);
    json_t *body =
        json_pack("{s:O, s:i, s:s, s:s, s:s, s:i, s:f, s:I}", "prompt", order->prompt, "n", 1,
                  "size", size, "response_format", "b64_json", "output_format", "png",
                  "num_inference_steps", (int)(order->steps + (words ? words->extra_steps : 0)),
                  "guidance_scale", order->guidance, "seed", (json_int_t)kit_seed(&self->kit));
    json_object_set(body, "negative_prompt", order->negative);
    if (strcmp(self->model, sd_server_model) == 0) {
        json_object_set_new(body, "prompt", sd_cpp_prompt(&self->kit));
    }
    if (self->model[0] != '\0') {
        json_object_set_new(body, "model", json_string(self->model));
    }
    kit_ask(&self->kit, &self->kit.main,
            &(struct kit_request){ .method = "POST",
                                   .path = path_of(self, "/v1/images/generations"),
                                   .body = body,
                                   .limit_ms = LIMIT_INSTANCE_DRAW_MS,
                                   .response_max = LIMIT_INSTANCE_BASE64 },
            on_drawn);
    timer_in_ms(self->kit.pause, LIMIT_INSTANCE_TAKEN_MS);
}

static void
on_pause(void *context)
{
    struct openai *self = context;
    if (self->kit.main.call == NULL) {
        kit_free(&self->kit); /* interrupted between two pictures */
        return;
    }
    kit_taken(&self->kit); /* neither refused nor answered: it draws */
}

static int
openai_draw(void *context, const struct draw_request *wanted)
{
    struct openai *self = context;
    int rc = kit_begin(&self->kit, wanted);
    if (rc == 0) {
        draw_next(self);
    }
    return rc;
}

static void
openai_interrupt(void *context)
{
    struct openai *self = context;
    if (self->kit.drawing && !self->kit.interrupted) {
        self->kit.interrupted = true;
        timer_in_ms(self->kit.pause, 0);
    }
}

/* -- health -- */

static void
on_looked(void *context, const struct http_response *response)
{
    struct openai *self = context;
    const char *path = places[self->place];
    struct health health = { .answered = true, .ready = true };
    kit_over(&self->kit.probe);
    self->tried++;
    if (response->status == 404 && self->tried < ARRAY_LENGTH(places)) {
        self->place = (self->place + 1) % ARRAY_LENGTH(places);
        kit_look(&self->kit, path_of(self, places[self->place]), LIMIT_INSTANCE_CONFIG, on_looked);
        return;
    }
    if (response->status != 200) {
        kit_unhealthy(&self->kit, path, response);
        return;
    }
    CLEANUP(kit_json_free) json_t *root = kit_json(response);
    const json_t *first = json_array_get(json_object_get(root, "data"), 0);
    kit_text(json_object_get(first, "id"), health.model, sizeof health.model);
    snprintf(self->model, sizeof self->model, "%s", health.model);
    if (health.model[0] == '\0' && strcmp(path, "/health") != 0) {
        kit_unhealthy(&self->kit, path, response);
        return;
    }
    self->kit.host->on_probed(self->kit.host->context, &health);
}

static void
openai_probe(void *context)
{
    struct openai *self = context;
    self->tried = 0;
    kit_look(&self->kit, path_of(self, places[self->place]), LIMIT_INSTANCE_CONFIG, on_looked);
}

static int
openai_open(void **out, const struct driver_host *host)
{
    return kit_driver_open(out, sizeof(struct openai), host, on_pause);
}

const struct driver driver_openai = {
    .name = "openai",
    .features = 0,
    .words = WORD_LOGIN | WORD_KEY | WORD_EXTRA_STEPS,
    .open = openai_open,
    .close = kit_driver_close,
    .probe = openai_probe,
    .probe_cancel = kit_driver_probe_cancel,
    .draw = openai_draw,
    .interrupt = openai_interrupt,
};
