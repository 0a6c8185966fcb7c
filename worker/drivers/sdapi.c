/*
 * sdapi — the driver of servers with the API of AUTOMATIC1111's web UI: itself, Forge, SD.Next, and
 * stable-diffusion.cpp's sd-server, which lacks progress and interrupt.
 *
 *     draw       POST /sdapi/v1/txt2img, answered when the picture is there; one after the other
 *     step       GET /sdapi/v1/progress meanwhile
 *     interrupt  POST /sdapi/v1/interrupt, again and again until txt2img is answered: one that
 *                comes before the drawing began is forgotten by the server
 *     lost       txt2img ended without an answer: the server may draw on, so it is interrupted
 *                until progress says that it does nothing, or nobody listens any more
 *
 * Progress and interrupt mean whatever the server draws, for whom ever: it must be ours alone.
 */
#include "common/scope.h"
#include "worker/drivers/sd_cpp.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum { INTERRUPT_AGAIN_MS = 1000 };

struct sdapi {
    struct kit kit;
    bool learned; /* the next two */
    bool has_progress;
    bool is_sd_server;
    bool lost; /* the answer will not come any more: progress tells when the GPU is free */
    struct health health; /* while a probe asks more than once */
};

static void draw_next(struct sdapi *self);

/* -- drawing -- */

static void
on_drawn(void *context, const struct http_response *response)
{
    struct sdapi *self = context;
    bool failed = false;
    kit_over(&self->kit.main);
    kit_cancel(&self->kit.side);
    timer_stop(self->kit.pause);
    if (response->status == 0 && response->error != ECONNREFUSED && self->has_progress) {
        self->lost = true;
        kit_report_lost(&self->kit, response, "while drawing");
        timer_in_ms(self->kit.pause, 0);
        return;
    }
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
    const json_t *images = json_object_get(root, "images");
    if (!kit_picture_base64(&self->kit, json_array_get(images, 0), &failed)) {
        return;
    }
    if (self->kit.made < self->kit.order.n) {
        draw_next(self);
    } else {
        kit_made_all(&self->kit);
    }
}

static void
draw_next(struct sdapi *self)
{
    const struct kit_order *order = &self->kit.order;
    /* Whatever format its user has set for files: a lossy one would be encoded twice. */
    json_t *body =
        json_pack("{s:O, s:i, s:i, s:i, s:f, s:I, s:i, s:i, s:b, s:b, s:{s:s}}", "prompt",
                  order->prompt, "width", (int)order->width, "height", (int)order->height, "steps",
                  (int)order->steps, "cfg_scale", kit_guidance_from_one(&self->kit), "seed",
                  (json_int_t)kit_seed(&self->kit), "batch_size", 1, "n_iter", 1, "send_images", 1,
                  "save_images", 0, "override_settings", "samples_format", "png");
    json_object_set(body, "negative_prompt", order->negative);
    if (self->is_sd_server) {
        json_object_set_new(body, "prompt", sd_cpp_prompt(&self->kit));
    }
    kit_ask(&self->kit, &self->kit.main,
            &(struct kit_request){ .method = "POST",
                                   .path = "/sdapi/v1/txt2img",
                                   .body = body,
                                   .limit_ms = LIMIT_INSTANCE_DRAW_MS,
                                   .response_max = LIMIT_INSTANCE_BASE64 },
            on_drawn);
    timer_in_ms(self->kit.pause, LIMIT_INSTANCE_TAKEN_MS);
}

static void
on_progress(void *context, const struct http_response *response)
{
    struct sdapi *self = context;
    CLEANUP(kit_json_free) json_t *root = response->status == 200 ? kit_json(response) : NULL;
    const json_t *state = json_object_get(root, "state");
    double step = json_number_value(json_object_get(state, "sampling_step"));
    double steps = json_number_value(json_object_get(state, "sampling_steps"));
    kit_over(&self->kit.side);
    timer_in_ms(self->kit.pause, LIMIT_INSTANCE_LOOK_MS);
    if (json_integer_value(json_object_get(state, "job_count")) > 0 && steps > 0) {
        kit_step(&self->kit, step / steps);
    }
}

static void
on_interrupt_heard(void *context, const struct http_response *response)
{
    struct sdapi *self = context;
    (void)response; /* what counts is that txt2img is answered */
    kit_over(&self->kit.side);
    timer_in_ms(self->kit.pause, INTERRUPT_AGAIN_MS);
}

static void
ask_to_stop(struct sdapi *self)
{
    kit_ask(&self->kit, &self->kit.side,
            &(struct kit_request){ .method = "POST",
                                   .path = "/sdapi/v1/interrupt",
                                   .body = json_object(),
                                   .limit_ms = LIMIT_PROBE_ANSWER_MS,
                                   .response_max = LIMIT_INSTANCE_STATE },
            on_interrupt_heard);
}

static void
ask_progress(struct sdapi *self, http_response_fn fn)
{
    kit_ask(&self->kit, &self->kit.side,
            &(struct kit_request){ .method = "GET",
                                   .path = "/sdapi/v1/progress?skip_current_image=true",
                                   .limit_ms = LIMIT_PROBE_ANSWER_MS,
                                   .response_max = LIMIT_INSTANCE_STATE },
            fn);
}

/* After a loss: does it still draw? The host bounds how long it is asked. */
static void
on_lost_progress(void *context, const struct http_response *response)
{
    struct sdapi *self = context;
    CLEANUP(kit_json_free) json_t *root = response->status == 200 ? kit_json(response) : NULL;
    const json_t *jobs = json_object_get(json_object_get(root, "state"), "job_count");
    kit_over(&self->kit.side);
    bool idle = json_is_integer(jobs) && json_integer_value(jobs) == 0;
    if (idle || response->error == ECONNREFUSED) {
        kit_free(&self->kit);
    } else {
        ask_to_stop(self);
    }
}

static void
on_pause(void *context)
{
    struct sdapi *self = context;
    struct kit *kit = &self->kit;
    if (self->lost) {
        ask_progress(self, on_lost_progress);
        return;
    }
    if (kit->main.call == NULL) {
        kit_free(kit); /* interrupted between two pictures */
        return;
    }
    if (!kit->interrupted) {
        kit_taken(kit); /* neither refused nor answered: it draws */
    }
    if (!self->has_progress) {
        return;
    }
    if (kit->interrupted) {
        kit_cancel(&kit->side);
        ask_to_stop(self);
    } else {
        ask_progress(self, on_progress);
    }
}

static int
sdapi_draw(void *context, const struct draw_request *wanted)
{
    struct sdapi *self = context;
    int rc = kit_begin(&self->kit, wanted);
    self->lost = false;
    if (rc == 0) {
        draw_next(self);
    }
    return rc;
}

static void
sdapi_interrupt(void *context)
{
    struct sdapi *self = context;
    if (self->kit.drawing && !self->kit.interrupted) {
        self->kit.interrupted = true;
        timer_in_ms(self->kit.pause, 0);
    }
}

/* -- health -- */

static void
report_health(struct sdapi *self)
{
    self->learned = true;
    self->health.lacks = self->has_progress ? 0 : DRIVER_STEPS | DRIVER_INTERRUPT;
    self->kit.host->on_probed(self->kit.host->context, &self->health);
}

static void
on_capabilities(void *context, const struct http_response *response)
{
    struct sdapi *self = context;
    CLEANUP(kit_json_free) json_t *root = response->status == 200 ? kit_json(response) : NULL;
    kit_over(&self->kit.probe);
    if (response->status == 0 || response->status >= 500) {
        kit_unhealthy(&self->kit, SD_CPP_CAPABILITIES, response);
        return;
    }
    self->is_sd_server = json_is_object(json_object_get(root, "model"));
    report_health(self);
}

static void
on_progress_known(void *context, const struct http_response *response)
{
    struct sdapi *self = context;
    kit_over(&self->kit.probe);
    if (response->status == 0 || response->status >= 500) {
        kit_unhealthy(&self->kit, "/sdapi/v1/progress", response);
        return;
    }
    self->has_progress = response->status == 200;
    self->is_sd_server = false;
    if (self->has_progress) {
        report_health(self);
    } else {
        kit_look(&self->kit, SD_CPP_CAPABILITIES, LIMIT_INSTANCE_CONFIG, on_capabilities);
    }
}

static void
on_options(void *context, const struct http_response *response)
{
    struct sdapi *self = context;
    CLEANUP(kit_json_free) json_t *root = response->status == 200 ? kit_json(response) : NULL;
    kit_over(&self->kit.probe);
    if (!json_is_object(root)) {
        self->learned = false;
        kit_unhealthy(&self->kit, "/sdapi/v1/options", response);
        return;
    }
    self->health = (struct health){ .answered = true, .ready = true };
    kit_text(json_object_get(root, "sd_model_checkpoint"), self->health.model,
             sizeof self->health.model);
    if (self->learned) {
        report_health(self);
    } else {
        kit_look(&self->kit, "/sdapi/v1/progress?skip_current_image=true", LIMIT_INSTANCE_STATE,
                 on_progress_known);
    }
}

static void
sdapi_probe(void *context)
{
    struct sdapi *self = context;
    kit_look(&self->kit, "/sdapi/v1/options", LIMIT_INSTANCE_CONFIG, on_options);
}

static int
sdapi_open(void **out, const struct driver_host *host)
{
    return kit_driver_open(out, sizeof(struct sdapi), host, on_pause);
}

const struct driver driver_sdapi = {
    .name = "sdapi",
    .features = DRIVER_STEPS | DRIVER_INTERRUPT,
    .words = WORD_LOGIN,
    .open = sdapi_open,
    .close = kit_driver_close,
    .probe = sdapi_probe,
    .probe_cancel = kit_driver_probe_cancel,
    .draw = sdapi_draw,
    .interrupt = sdapi_interrupt,
};
