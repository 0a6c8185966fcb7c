/*
 * gradio — the driver of Gradio apps, version 4 and later (gradio_app.h: which function, how).
 *
 *     JOIN    POST PREFIX/queue/join                an event_id
 *     STREAM  GET PREFIX/queue/data?session_hash=   held open: if it closes, Gradio drops the job
 *     FETCH   GET PREFIX/file=PATH                  the picture, in the format the app chose
 *     interrupted: POST PREFIX/cancel while it waits in the app's queue, or if its function yields;
 *              a plain function runs on in its thread whatever Gradio says, so its end is awaited
 *
 * Steps are told if the function uses gr.Progress.
 */
#include "common/scope.h"
#include "worker/drivers/gradio_app.h"
#include "worker/drivers/sse.h"
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SESSION_BYTES = 16, EVENT_ID_BYTES = 96 };

struct gradio {
    struct kit kit;
    struct gradio_app app; /* learned; n_arguments 0: not yet */
    json_t *config;        /* between two answers of a probe */
    bool tells_steps;      /* it has told one */
    char session[2 * SESSION_BYTES + 1];
    char event_id[EVENT_ID_BYTES];  /* "": not joined */
    bool started;                   /* out of the queue */
    char file[LIMIT_INSTANCE_PATH]; /* path of the picture; "": not drawn yet */
    struct sse sse;
};

static void join(struct gradio *self);

/* Ends what is under way for the present picture. */
static void
end_picture(struct gradio *self)
{
    kit_cancel(&self->kit.side);
    sse_clear(&self->sse);
    self->event_id[0] = '\0';
    self->started = false;
}

static void
finish_interrupted(struct gradio *self)
{
    end_picture(self);
    kit_free(&self->kit);
}

static void
fail(struct gradio *self, enum fail_code code, const char *message)
{
    end_picture(self);
    kit_fail(&self->kit, &(struct failure){ .code = code, .message = message, .taken = true });
}

/* -- FETCH -- */

static void
on_fetched(void *context, const struct http_response *response)
{
    struct gradio *self = context;
    kit_over(&self->kit.main);
    if (response->status == 0) {
        kit_fail_lost(&self->kit, response, "while fetching the picture");
        return;
    }
    if (response->status != 200) {
        kit_fail_status(&self->kit, response, false);
        return;
    }
    if (!kit_picture(&self->kit, response->body, response->body_length)) {
        return;
    }
    if (self->kit.made < self->kit.order.n) {
        timer_in_ms(self->kit.pause, 0);
    } else {
        kit_made_all(&self->kit);
    }
}

static void
fetch(struct gradio *self)
{
    kit_ask(&self->kit, &self->kit.main,
            &(struct kit_request){ .method = "GET",
                                   .path = self->file,
                                   .limit_ms = LIMIT_INSTANCE_ANSWER_MS,
                                   .response_max = LIMIT_PICTURE_BYTES },
            on_fetched);
    self->file[0] = '\0';
}

/* -- STREAM -- */

static void
on_progress(struct gradio *self, const json_t *message)
{
    const json_t *bars = json_object_get(message, "progress_data");
    const json_t *bar = json_array_get(bars, json_array_size(bars) - 1); /* the innermost */
    double index = json_number_value(json_object_get(bar, "index"));
    double length = json_number_value(json_object_get(bar, "length"));
    double part = length > 0 ? index / length : json_number_value(json_object_get(bar, "progress"));
    if (part > 0) {
        self->tells_steps = true;
        kit_step(&self->kit, part);
    }
}

/* False: the picture's stream is over; self may be gone. */
static bool
on_completed(struct gradio *self, const json_t *message)
{
    char why[KIT_TEXT];
    char text[KIT_TEXT + 16];
    const json_t *output = json_object_get(message, "output");
    if (self->kit.interrupted) {
        finish_interrupted(self);
        return false;
    }
    if (!json_is_true(json_object_get(message, "success"))) {
        kit_text(json_object_get(output, "error"), why, sizeof why);
        snprintf(text, sizeof text, "the app failed: %s",
                 why[0] == '\0' ? "no reason given (launch it with show_error=True)" : why);
        fail(self, FAIL_INSTANCE_ERROR, text);
        return false;
    }
    const char *path = gradio_app_file(json_object_get(output, "data"));
    int length = snprintf(self->file, sizeof self->file, "%s/file=", self->app.prefix);
    if (path == NULL || length < 0 || !kit_escape(self->file, sizeof self->file, path)) {
        self->file[0] = '\0';
        fail(self, FAIL_INSTANCE_ERROR, "the app's answer holds no picture");
        return false;
    }
    end_picture(self);
    timer_in_ms(self->kit.pause, 0);
    return false;
}

/* False: the stream is over; self may be gone. */
static bool
on_message(struct gradio *self, const json_t *message)
{
    char why[KIT_TEXT];
    const char *kind = json_string_value(json_object_get(message, "msg"));
    if (kind == NULL) {
        return true;
    }
    if (strcmp(kind, "process_starts") == 0) {
        self->started = true;
        kit_taken(&self->kit);
        if (self->kit.interrupted) {
            return true; /* what was asked inside is under way */
        }
    } else if (strcmp(kind, "progress") == 0) {
        on_progress(self, message);
    } else if (strcmp(kind, "process_completed") == 0) {
        return on_completed(self, message);
    } else if (strcmp(kind, "unexpected_error") == 0 || strcmp(kind, "close_stream") == 0) {
        kit_text(json_object_get(message, "message"), why, sizeof why);
        if (self->kit.interrupted) {
            finish_interrupted(self);
        } else {
            fail(self, FAIL_INSTANCE_DIED, why[0] == '\0' ? "ended without a result" : why);
        }
        return false;
    }
    return true;
}

static void
on_stream_bytes(void *context, const void *bytes, size_t length)
{
    struct gradio *self = context;
    const char *data = NULL;
    size_t size = 0;
    if (!sse_push(&self->sse, bytes, length)) {
        fail(self, FAIL_INSTANCE_ERROR, "an event that is too large");
        return;
    }
    while (sse_next(&self->sse, &data, &size)) {
        CLEANUP(kit_json_free) json_t *message = json_loadb(data, size, 0, NULL);
        if (message == NULL) {
            fail(self, FAIL_INSTANCE_ERROR, "an event that is no JSON");
            return;
        }
        if (!on_message(self, message)) {
            return;
        }
    }
}

static void
on_stream_end(void *context, const struct http_response *response)
{
    struct gradio *self = context;
    kit_over(&self->kit.side);
    end_picture(self);
    if (response->status == 0) {
        kit_fail_lost(&self->kit, response, "while drawing");
    } else if (response->status != 200) {
        kit_fail_status(&self->kit, response, false);
    } else {
        kit_fail(&self->kit, &(struct failure){ .code = FAIL_INSTANCE_DIED,
                                                .message = "closed the stream before the result" });
    }
}

/* -- STOP -- */

static void
on_cancelled(void *context, const struct http_response *response)
{
    struct gradio *self = context;
    (void)response; /* the stream tells the end */
    kit_over(&self->kit.main);
}

static void
cancel(struct gradio *self)
{
    char path[64];
    if (self->started && !self->app.generator) {
        return; /* Gradio would say that it ended, and its thread would draw on */
    }
    snprintf(path, sizeof path, "%s/cancel", self->app.prefix);
    kit_ask(&self->kit, &self->kit.main,
            &(struct kit_request){ .method = "POST",
                                   .path = path,
                                   .body = json_pack("{s:s, s:I, s:s}", "session_hash",
                                                     self->session, "fn_index", self->app.fn_index,
                                                     "event_id", self->event_id),
                                   .limit_ms = LIMIT_INSTANCE_ANSWER_MS,
                                   .response_max = LIMIT_INSTANCE_STATE },
            on_cancelled);
}

/* -- JOIN -- */

static void
on_joined(void *context, const struct http_response *response)
{
    struct gradio *self = context;
    char path[128];
    kit_over(&self->kit.main);
    if (response->status == 0) {
        kit_fail_lost(&self->kit, response, "submit");
        return;
    }
    if (response->status != 200) {
        /* The arguments are of our making: no fault of the request. */
        kit_fail_status(&self->kit, response, false);
        return;
    }
    CLEANUP(kit_json_free) json_t *root = kit_json(response);
    const char *id = json_string_value(json_object_get(root, "event_id"));
    if (id == NULL || id[0] == '\0' || strlen(id) >= sizeof self->event_id) {
        kit_fail_error(&self->kit, "accepted the job with an answer that makes no sense");
        return;
    }
    snprintf(self->event_id, sizeof self->event_id, "%s", id);
    snprintf(path, sizeof path, "%s/queue/data?session_hash=%s", self->app.prefix, self->session);
    kit_ask(&self->kit, &self->kit.side,
            &(struct kit_request){ .method = "GET",
                                   .path = path,
                                   .limit_ms = LIMIT_INSTANCE_DRAW_MS,
                                   .response_max = LIMIT_STREAM_EVENT,
                                   .on_bytes = on_stream_bytes },
            on_stream_end);
    if (self->kit.interrupted) {
        cancel(self);
        return;
    }
    kit_waiting(&self->kit);
}

static void
join(struct gradio *self)
{
    unsigned char random[SESSION_BYTES];
    char path[64];
    const struct driver_words *words = self->kit.host->words;
    uint32_t extra = words == NULL ? 0 : words->extra_steps;
    json_t *data = self->app.n_arguments == 0
                       ? NULL
                       : gradio_app_data(&self->app, &self->kit, self->kit.order.steps + extra);
    if (data == NULL) {
        kit_fail(&self->kit, &(struct failure){ .code = FAIL_INSTANCE_REFUSED,
                                                .message = "the app takes no guidance" });
        return;
    }
    randombytes_buf(random, sizeof random);
    sodium_bin2hex(self->session, sizeof self->session, random, sizeof random);
    end_picture(self);
    snprintf(path, sizeof path, "%s/queue/join", self->app.prefix);
    kit_ask(&self->kit, &self->kit.main,
            &(struct kit_request){ .method = "POST",
                                   .path = path,
                                   .body = json_pack("{s:o, s:I, s:s, s:n, s:n}", "data", data,
                                                     "fn_index", self->app.fn_index, "session_hash",
                                                     self->session, "event_data", "trigger_id"),
                                   .limit_ms = LIMIT_INSTANCE_ANSWER_MS,
                                   .response_max = LIMIT_INSTANCE_STATE },
            on_joined);
}

/* -- the driver -- */

static void
on_pause(void *context)
{
    struct gradio *self = context;
    if (self->kit.interrupted) {
        finish_interrupted(self); /* nothing is drawn any more */
    } else if (self->file[0] != '\0') {
        fetch(self);
    } else {
        join(self);
    }
}

static int
gradio_draw(void *context, const struct draw_request *wanted)
{
    struct gradio *self = context;
    int rc = kit_begin(&self->kit, wanted);
    if (rc == 0) {
        self->file[0] = '\0';
        timer_in_ms(self->kit.pause, 0);
    }
    return rc;
}

static void
gradio_interrupt(void *context)
{
    struct gradio *self = context;
    struct kit *kit = &self->kit;
    if (!kit->drawing || kit->interrupted) {
        return;
    }
    kit->interrupted = true;
    if (self->event_id[0] != '\0') {
        cancel(self);
        return;
    }
    if (kit->main.call != NULL && kit->main.body != NULL) {
        return; /* the join: what it began has no id yet */
    }
    kit_cancel(&kit->main);
    timer_in_ms(kit->pause, 0);
}

/* -- health -- */

static void
tell_health(struct gradio *self)
{
    struct health health = { .answered = true, .ready = true };
    health.lacks = (self->tells_steps ? 0 : (unsigned)DRIVER_STEPS) |
                   (self->app.generator ? 0 : (unsigned)DRIVER_INTERRUPT);
    snprintf(health.epoch, sizeof health.epoch, "%s", self->app.app_id);
    self->kit.host->on_probed(self->kit.host->context, &health);
}

static void
tell_problem(struct gradio *self, const char *message)
{
    struct health health = { 0 };
    snprintf(health.message, sizeof health.message, "%s", message);
    gradio_app_clear(&self->app);
    self->kit.host->on_probed(self->kit.host->context, &health);
}

static void
on_info(void *context, const struct http_response *response)
{
    struct gradio *self = context;
    CLEANUP(kit_json_free) json_t *root = response->status == 200 ? kit_json(response) : NULL;
    CLEANUP(kit_json_free) json_t *config = self->config;
    const struct driver_words *words = self->kit.host->words;
    self->config = NULL;
    kit_over(&self->kit.probe);
    if (!json_is_object(root)) {
        gradio_app_clear(&self->app);
        kit_unhealthy(&self->kit, "/info", response);
        return;
    }
    const char *wrong =
        gradio_app_learn(&self->app, config, root, words == NULL ? "" : words->endpoint);
    if (wrong != NULL) {
        tell_problem(self, wrong);
        return;
    }
    self->tells_steps = false;
    tell_health(self);
}

static void
on_config(void *context, const struct http_response *response)
{
    struct gradio *self = context;
    char path[64];
    CLEANUP(kit_json_free) json_t *root = response->status == 200 ? kit_json(response) : NULL;
    kit_over(&self->kit.probe);
    gradio_app_clear(&self->app);
    if (!json_is_object(root)) {
        kit_unhealthy(&self->kit, "/config", response);
        return;
    }
    const char *wrong = gradio_app_read_config(&self->app, root);
    if (wrong != NULL) {
        tell_problem(self, wrong);
        return;
    }
    self->config = root;
    root = NULL;
    snprintf(path, sizeof path, "%s/info", self->app.prefix);
    kit_look(&self->kit, path, LIMIT_INSTANCE_CONFIG, on_info);
}

/* Is it still the app that was learned? */
static void
on_app_id(void *context, const struct http_response *response)
{
    struct gradio *self = context;
    char id[sizeof self->app.app_id];
    CLEANUP(kit_json_free) json_t *root = response->status == 200 ? kit_json(response) : NULL;
    const json_t *told = json_object_get(root, "app_id");
    kit_over(&self->kit.probe);
    if (response->status == 0) {
        kit_unhealthy(&self->kit, "/app_id", response);
        return;
    }
    gradio_app_id(told, id, sizeof id);
    if (id[0] != '\0' && strcmp(id, self->app.app_id) == 0) {
        tell_health(self);
        return;
    }
    kit_look(&self->kit, "/config", LIMIT_INSTANCE_CONFIG, on_config);
}

static void
gradio_probe(void *context)
{
    struct gradio *self = context;
    char path[64];
    if (self->app.n_arguments == 0) {
        kit_look(&self->kit, "/config", LIMIT_INSTANCE_CONFIG, on_config);
        return;
    }
    snprintf(path, sizeof path, "%s/app_id", self->app.prefix);
    kit_look(&self->kit, path, LIMIT_INSTANCE_STATE, on_app_id);
}

static void
gradio_probe_cancel(void *context)
{
    struct gradio *self = context;
    kit_cancel(&self->kit.probe);
    kit_json_free(&self->config);
    if (self->kit.pause != NULL && !self->kit.drawing && self->app.n_arguments == 0) {
        gradio_app_clear(&self->app); /* half learned */
    }
}

static void
gradio_close(void **self_p)
{
    struct gradio *self = *self_p;
    if (self != NULL) {
        gradio_probe_cancel(self);
        kit_close(&self->kit);
        sse_clear(&self->sse);
        gradio_app_clear(&self->app);
        free(self);
        *self_p = NULL;
    }
}

static int
gradio_open(void **out, const struct driver_host *host)
{
    struct gradio *self = calloc(1, sizeof *self);
    if (self == NULL || kit_open(&self->kit, host, on_pause) != 0) {
        free(self);
        return -ENOMEM;
    }
    *out = self;
    return 0;
}

const struct driver driver_gradio = {
    .name = "gradio",
    .features = DRIVER_STEPS | DRIVER_INTERRUPT,
    .words = WORD_LOGIN | WORD_KEY | WORD_ENDPOINT | WORD_EXTRA_STEPS,
    .open = gradio_open,
    .close = gradio_close,
    .probe = gradio_probe,
    .probe_cancel = gradio_probe_cancel,
    .draw = gradio_draw,
    .interrupt = gradio_interrupt,
};
