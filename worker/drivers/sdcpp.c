/*
 * sdcpp — the driver of stable-diffusion.cpp's sd-server by its own API.
 *
 *     SUBMIT  POST /sdcpp/v1/img_gen         202 with an id
 *     POLL    GET /sdcpp/v1/jobs/ID          queued, generating, then the picture itself
 *     STOP    POST /sdcpp/v1/jobs/ID/cancel  a queued one ends; of one that is drawn the end is
 *                                            waited for by POLL, unless the server can stop it
 *
 * It tells no steps. A submit has no key of its own: one whose answer is lost is not repeated.
 */
#include "common/scope.h"
#include "worker/drivers/sd_cpp.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ID_BYTES = 128, CANCEL_AGAIN_POLLS = 4, LOST_POLLS = 3 };

struct sdcpp {
    struct kit kit;
    char id[ID_BYTES]; /* of the present picture's job; "": not submitted */
    uint32_t polls;
    uint32_t lost_polls; /* in a row */
};

static void draw_next(struct sdcpp *self);

/* -- POLL -- */

static void
completed(struct sdcpp *self, const json_t *root)
{
    bool failed = false;
    const json_t *images = json_object_get(json_object_get(root, "result"), "images");
    const json_t *first = json_array_get(images, 0);
    self->id[0] = '\0';
    if (!kit_picture_base64(&self->kit, json_object_get(first, "b64_json"), &failed)) {
        return;
    }
    if (self->kit.made < self->kit.order.n) {
        draw_next(self);
    } else {
        kit_made_all(&self->kit);
    }
}

/* It has ended, and how. */
static void
on_end(struct sdcpp *self, const char *status, const json_t *root)
{
    char why[KIT_TEXT];
    char message[KIT_TEXT + 32];
    if (self->kit.interrupted) {
        kit_free(&self->kit);
    } else if (strcmp(status, "completed") == 0) {
        completed(self, root);
    } else {
        kit_text(json_object_get(json_object_get(root, "error"), "message"), why, sizeof why);
        snprintf(message, sizeof message, "%s: %s", status, why);
        kit_fail_error(&self->kit, message);
    }
}

static void
on_polled(void *context, const struct http_response *response)
{
    struct sdcpp *self = context;
    char status[16];
    kit_over(&self->kit.main);
    if (response->status == 0) {
        bool gone = response->error == ECONNREFUSED || response->error == EMSGSIZE;
        if (gone || (response->error != ETIMEDOUT && ++self->lost_polls >= LOST_POLLS)) {
            kit_fail_lost(&self->kit, response, "while drawing");
        } else {
            timer_in_ms(self->kit.pause, LIMIT_INSTANCE_LOOK_MS);
        }
        return;
    }
    if (response->status == 404) {
        kit_fail(&self->kit,
                 &(struct failure){ .code = FAIL_INSTANCE_DIED,
                                    .message = "no longer knows the job: it was restarted" });
        return;
    }
    if (response->status == 410) {
        kit_fail_error(&self->kit, "has thrown the picture away: it was not fetched in time");
        return;
    }
    if (response->status != 200) {
        if (++self->lost_polls >= LOST_POLLS) {
            kit_fail_status(&self->kit, response, false);
        } else {
            timer_in_ms(self->kit.pause, LIMIT_INSTANCE_LOOK_MS);
        }
        return;
    }
    CLEANUP(kit_json_free) json_t *root = kit_json(response);
    self->lost_polls = 0;
    kit_text(json_object_get(root, "status"), status, sizeof status);
    if (strcmp(status, "completed") == 0 || strcmp(status, "failed") == 0 ||
        strcmp(status, "cancelled") == 0) {
        on_end(self, status, root);
    } else if (strcmp(status, "queued") == 0 || strcmp(status, "generating") == 0) {
        timer_in_ms(self->kit.pause, LIMIT_INSTANCE_LOOK_MS);
    } else {
        kit_fail_error(&self->kit, "a job without a known status");
    }
}

static void
poll(struct sdcpp *self)
{
    char path[ID_BYTES + 32];
    snprintf(path, sizeof path, "/sdcpp/v1/jobs/%s", self->id);
    self->polls++;
    kit_ask(&self->kit, &self->kit.main,
            &(struct kit_request){ .method = "GET",
                                   .path = path,
                                   .limit_ms = LIMIT_INSTANCE_ANSWER_MS,
                                   .response_max = LIMIT_INSTANCE_BASE64 },
            on_polled);
}

/* -- STOP -- */

static void
on_cancelled(void *context, const struct http_response *response)
{
    struct sdcpp *self = context;
    (void)response; /* 200, 409 or nothing: POLL sees the end in each case */
    kit_over(&self->kit.side);
}

static void
cancel(struct sdcpp *self)
{
    char path[ID_BYTES + 32];
    snprintf(path, sizeof path, "/sdcpp/v1/jobs/%s/cancel", self->id);
    kit_cancel(&self->kit.side);
    kit_ask(&self->kit, &self->kit.side,
            &(struct kit_request){ .method = "POST",
                                   .path = path,
                                   .body = json_object(),
                                   .limit_ms = LIMIT_INSTANCE_ANSWER_MS,
                                   .response_max = LIMIT_INSTANCE_STATE },
            on_cancelled);
}

/* -- SUBMIT -- */

static bool
id_is_good(const json_t *id)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.";
    size_t length = json_string_length(id);
    return length > 0 && length < ID_BYTES && strspn(json_string_value(id), allowed) == length;
}

static void
on_submitted(void *context, const struct http_response *response)
{
    struct sdcpp *self = context;
    kit_over(&self->kit.main);
    if (response->status == 0) {
        kit_fail_lost(&self->kit, response, "submit");
        return;
    }
    if (response->status != 200 && response->status != 202) {
        kit_fail_status(&self->kit, response, true);
        return;
    }
    CLEANUP(kit_json_free) json_t *root = kit_json(response);
    const json_t *id = json_object_get(root, "id");
    if (!id_is_good(id)) {
        kit_fail_error(&self->kit, "accepted the job with an answer that makes no sense");
        return;
    }
    snprintf(self->id, sizeof self->id, "%s", json_string_value(id));
    self->polls = self->lost_polls = 0;
    timer_in_ms(self->kit.pause, self->kit.interrupted ? 0 : LIMIT_INSTANCE_LOOK_MS);
    kit_taken(&self->kit);
}

static void
draw_next(struct sdcpp *self)
{
    const struct kit_order *order = &self->kit.order;
    json_t *body = sd_cpp_order(&self->kit);
    json_object_set(body, "prompt", order->prompt);
    json_object_set_new(body, "width", json_integer(order->width));
    json_object_set_new(body, "height", json_integer(order->height));
    json_object_set_new(body, "batch_count", json_integer(1));
    json_object_set_new(body, "output_format", json_string("png"));
    json_object_set_new(body, "embed_image_metadata", json_false());
    self->id[0] = '\0';
    kit_ask(&self->kit, &self->kit.main,
            &(struct kit_request){ .method = "POST",
                                   .path = "/sdcpp/v1/img_gen",
                                   .body = body,
                                   .limit_ms = LIMIT_INSTANCE_ANSWER_MS,
                                   .response_max = LIMIT_INSTANCE_STATE },
            on_submitted);
}

static void
on_pause(void *context)
{
    struct sdcpp *self = context;
    if (self->id[0] == '\0') {
        kit_free(&self->kit); /* interrupted between two pictures */
        return;
    }
    if (self->kit.interrupted && self->polls % CANCEL_AGAIN_POLLS == 0) {
        cancel(self);
    }
    poll(self);
}

static int
sdcpp_draw(void *context, const struct draw_request *wanted)
{
    struct sdcpp *self = context;
    int rc = kit_begin(&self->kit, wanted);
    if (rc == 0) {
        draw_next(self);
    }
    return rc;
}

static void
sdcpp_interrupt(void *context)
{
    struct sdcpp *self = context;
    struct kit *kit = &self->kit;
    if (!kit->drawing || kit->interrupted) {
        return;
    }
    kit->interrupted = true;
    if (self->id[0] == '\0' && kit->main.call != NULL) {
        return; /* what is submitted cannot be cancelled before it has an id */
    }
    kit_cancel(&kit->main);
    self->polls = 0;
    timer_in_ms(kit->pause, 0);
}

/* -- health -- */

/* Of a model for videos each job would be refused as if it were the job's fault. */
static bool
draws_pictures(const json_t *modes)
{
    bool found = !json_is_array(modes); /* not told */
    for (size_t i = 0; i < json_array_size(modes); i++) {
        const char *mode = json_string_value(json_array_get(modes, i));
        found = found || (mode != NULL && strcmp(mode, "img_gen") == 0);
    }
    return found;
}

static void
on_capabilities(void *context, const struct http_response *response)
{
    struct sdcpp *self = context;
    CLEANUP(kit_json_free) json_t *root = response->status == 200 ? kit_json(response) : NULL;
    const json_t *model = json_object_get(root, "model");
    struct health health = { .answered = true, .ready = true };
    kit_over(&self->kit.probe);
    if (!json_is_object(model)) {
        kit_unhealthy(&self->kit, SD_CPP_CAPABILITIES, response);
        return;
    }
    if (!draws_pictures(json_object_get(root, "supported_modes"))) {
        health = (struct health){ .message = "its model draws no pictures: supported_modes has no "
                                             "img_gen" };
        self->kit.host->on_probed(self->kit.host->context, &health);
        return;
    }
    const json_t *features = json_object_get(json_object_get(root, "features_by_mode"), "img_gen");
    features = features != NULL ? features : json_object_get(root, "features");
    if (!json_is_true(json_object_get(features, "cancel_generating"))) {
        health.lacks = DRIVER_INTERRUPT;
    }
    const char *name = json_object_get(model, "stem") != NULL ? "stem" : "name";
    kit_text(json_object_get(model, name), health.model, sizeof health.model);
    const json_t *limits = json_object_get(root, "limits");
    json_int_t width = json_integer_value(json_object_get(limits, "max_width"));
    json_int_t height = json_integer_value(json_object_get(limits, "max_height"));
    if (width > 0 && width <= UINT16_MAX && height > 0 && height <= UINT16_MAX) {
        health.max_pixels = (uint32_t)(width * height);
    }
    self->kit.host->on_probed(self->kit.host->context, &health);
}

static void
sdcpp_probe(void *context)
{
    struct sdcpp *self = context;
    kit_look(&self->kit, SD_CPP_CAPABILITIES, LIMIT_INSTANCE_CONFIG, on_capabilities);
}

static int
sdcpp_open(void **out, const struct driver_host *host)
{
    return kit_driver_open(out, sizeof(struct sdcpp), host, on_pause);
}

const struct driver driver_sdcpp = {
    .name = "sdcpp",
    .features = DRIVER_INTERRUPT,
    .words = WORD_LOGIN,
    .open = sdcpp_open,
    .close = kit_driver_close,
    .probe = sdcpp_probe,
    .probe_cancel = kit_driver_probe_cancel,
    .draw = sdcpp_draw,
    .interrupt = sdcpp_interrupt,
};
