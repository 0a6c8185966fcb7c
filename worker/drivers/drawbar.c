/*
 * drawbar — the driver of instances that speak our own API (worker/instance/API.md).
 *
 *     SUBMIT  POST /v1/jobs                    again after a lost answer: idempotent by id
 *     POLL    GET /v1/jobs/ID?wait=&since=     until it has ended; each answer may be a step
 *     FETCH   GET /v1/jobs/ID/images/I         one after the other
 *             DELETE /v1/jobs/ID               nobody waits for its answer
 *     REMOVE  DELETE /v1/jobs/ID, then GET until it has ended or is unknown: the GPU is free
 */
#include "common/clock.h"
#include "common/scope.h"
#include "worker/drivers/drawbar_json.h"
#include "worker/drivers/driver.h"
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    URL_BYTES = LIMIT_URL + 128,
    RETRIES = 3,    /* of one request whose answer is lost */
    RETRY_MS = 200, /* before each */
    EAGER_MS = 50,  /* an answer that came so soon without news was no long poll */
    POLL_MARGIN_MS = 5000,
};

enum phase { PHASE_IDLE, PHASE_SUBMIT, PHASE_POLL, PHASE_FETCH, PHASE_REMOVE, PHASE_COUNT };

struct drawbar {
    const struct driver_host *host;
    struct http_call *probe;
    struct http_call *call; /* of the drawing; NULL in a pause */
    struct timer *pause;    /* then the phase's request is made again */
    enum phase phase;
    char id[JOB_ID_TEXT + 8];
    char *body; /* of the POST */
    uint32_t n, seed;
    bool interrupted; /* while the POST is under way: remove after its answer */
    bool maybe_taken; /* a POST left and its answer was lost */
    bool taken;
    bool asked_to_end; /* REMOVE: the DELETE was answered */
    uint32_t retries;
    uint32_t step;
    int64_t asked_ms; /* when the poll under way was sent */
    uint32_t fetched;
    struct job_view view; /* the last one that came */
    char epoch[sizeof((struct job_view *)0)->epoch];
};

static void go(struct drawbar *self, enum phase phase);

static void
forget(struct drawbar *self)
{
    http_call_cancel(&self->call);
    timer_stop(self->pause);
    free(self->body);
    self->body = NULL;
    self->phase = PHASE_IDLE;
}

/* Starts one request of the phase; a failure to start is treated like a lost answer. */
static void
request(struct drawbar *self, const char *method, const char *path, int64_t limit_ms,
        http_response_fn fn)
{
    char url[URL_BYTES];
    struct http_request wanted = { .method = method,
                                   .url = url,
                                   .limit_ms = limit_ms,
                                   .response_max = self->phase == PHASE_FETCH
                                                       ? LIMIT_PICTURE_BYTES
                                                       : LIMIT_INSTANCE_STATE };
    snprintf(url, sizeof url, "%s/v1/jobs%s", self->host->url, path);
    if (self->phase == PHASE_SUBMIT) {
        wanted.body = self->body;
        wanted.body_length = strlen(self->body);
        wanted.content_type = "application/json";
    }
    self->call = http_client_start(self->host->http, &wanted, fn, self);
    if (self->call == NULL) {
        timer_in_ms(self->pause, RETRY_MS);
    }
}

/* True: the same request will be made again after a pause. */
static bool
retry(struct drawbar *self)
{
    if (self->retries++ >= RETRIES) {
        return false;
    }
    timer_in_ms(self->pause, RETRY_MS);
    return true;
}

/* on_free is the last thing done: the host may draw again, or close us, in it. */
static void
be_free(struct drawbar *self)
{
    forget(self);
    self->host->on_free(self->host->context);
}

/* gpu_busy: the server may still be at it, so it is told to stop and waited for. */
static void
fail(struct drawbar *self, struct failure failure, bool gpu_busy)
{
    failure.taken = failure.taken || self->taken || self->maybe_taken;
    if (gpu_busy) {
        go(self, PHASE_REMOVE);
    } else {
        self->phase = PHASE_IDLE;
    }
    self->host->on_failed(self->host->context, &failure);
    if (!gpu_busy) {
        be_free(self);
    }
}

static void
fail_lost(struct drawbar *self, const struct http_response *response, const char *doing)
{
    char message[160];
    snprintf(message, sizeof message, "%s: %s", doing,
             response->message[0] != '\0' ? response->message : strerror(response->error));
    fail(self, (struct failure){ .code = FAIL_INSTANCE_DIED, .message = message }, false);
}

/* An answer that is neither wanted nor a known refusal. */
static void
fail_status(struct drawbar *self, const struct http_response *response, bool gpu_busy)
{
    char why[160];
    char message[200];
    problem_text(response->body, response->body_length, why, sizeof why);
    snprintf(message, sizeof message, "HTTP %d: %s", response->status, why);
    fail(self,
         (struct failure){
             .code = FAIL_INSTANCE_ERROR, .message = message, .taken = response->status >= 500 },
         gpu_busy);
}

/* -- SUBMIT -- */

static void
refused(struct drawbar *self, const struct http_response *response)
{
    char why[160];
    char message[200];
    struct failure failure = { .code = FAIL_INSTANCE_REFUSED, .message = message };
    problem_text(response->body, response->body_length, why, sizeof why);
    snprintf(message, sizeof message, "HTTP %d: %s", response->status, why);
    switch (response->status) {
    case 400:
    case 413:
    case 422:
        failure.final = true;
        fail(self, failure, false);
        return;
    case 429:
    case 503:
        failure.code = FAIL_INSTANCE_ERROR;
        failure.busy = true;
        fail(self, failure, false);
        return;
    default:
        fail_status(self, response, false);
    }
}

static void
on_submitted(void *context, const struct http_response *response)
{
    struct drawbar *self = context;
    bool accepted = response->status == 200 || response->status == 202;
    self->call = NULL;
    if (self->interrupted) {
        if (response->status == 0 && response->error == ECONNREFUSED) {
            be_free(self);
        } else {
            go(self, PHASE_REMOVE); /* also when the answer was lost: it may draw */
        }
        return;
    }
    if (response->status == 0) {
        bool nobody = response->error == ECONNREFUSED;
        self->maybe_taken = self->maybe_taken || !nobody;
        if (nobody || !retry(self)) {
            fail_lost(self, response, "submit");
        }
        return;
    }
    if (!accepted) {
        refused(self, response);
        return;
    }
    if (!job_view_parse(&self->view, response->body, response->body_length)) {
        fail(self,
             (struct failure){ .code = FAIL_INSTANCE_ERROR,
                               .message = "accepted the job with an answer that makes no sense",
                               .taken = true },
             true);
        return;
    }
    snprintf(self->epoch, sizeof self->epoch, "%s", self->view.epoch);
    self->taken = true;
    go(self, PHASE_POLL);
    self->host->on_taken(self->host->context);
}

/* -- POLL -- */

static void
ended_badly(struct drawbar *self)
{
    char message[200];
    snprintf(message, sizeof message, "%s: %s",
             self->view.error_code[0] != '\0' ? self->view.error_code
                                              : job_view_state_name(self->view.state),
             self->view.message);
    fail(self, (struct failure){ .code = FAIL_INSTANCE_ERROR, .message = message }, false);
}

static void
on_view(struct drawbar *self)
{
    const struct job_view *view = &self->view;
    bool news = view->step != self->step;
    char message[80];
    switch (view->state) {
    case VIEW_QUEUED:
    case VIEW_RUNNING:
        self->step = view->step;
        if (!news && clock_mono_ms() - self->asked_ms < EAGER_MS) {
            timer_in_ms(self->pause, RETRY_MS / 2);
        } else {
            go(self, PHASE_POLL);
        }
        if (view->state == VIEW_RUNNING) {
            self->host->on_step(self->host->context, view->step, view->steps);
        }
        return;
    case VIEW_SUCCEEDED:
        if (view->n_images != self->n) {
            snprintf(message, sizeof message, "made %u of %u pictures", view->n_images, self->n);
            fail(self, (struct failure){ .code = FAIL_INSTANCE_ERROR, .message = message }, false);
            return;
        }
        go(self, PHASE_FETCH);
        self->host->on_step(self->host->context, view->steps, view->steps);
        return;
    case VIEW_FAILED:
    case VIEW_CANCELLED:
        ended_badly(self);
        return;
    case VIEW_STATE_COUNT:
        break;
    }
    assert(false);
}

static void
on_polled(void *context, const struct http_response *response)
{
    struct drawbar *self = context;
    self->call = NULL;
    if (response->status == 0) {
        /* Silence is no loss: whether it lasts too long is not decided here. */
        self->retries = response->error == ETIMEDOUT ? 0 : self->retries;
        if (response->error == ECONNREFUSED || !retry(self)) {
            fail_lost(self, response, "while drawing");
        }
        return;
    }
    if (response->status == 404 || response->status == 503) { /* 503: it is starting */
        fail(self,
             (struct failure){ .code = FAIL_INSTANCE_DIED,
                               .message = "no longer knows the job: it was restarted" },
             false);
        return;
    }
    if (response->status != 200 ||
        !job_view_parse(&self->view, response->body, response->body_length)) {
        if (!retry(self)) {
            fail_status(self, response, true);
        }
        return;
    }
    self->retries = 0;
    if (strcmp(self->view.epoch, self->epoch) != 0) {
        fail(self, (struct failure){ .code = FAIL_INSTANCE_DIED, .message = "was restarted" },
             false);
        return;
    }
    on_view(self);
}

/* -- FETCH -- */

/* The pictures are here: the server may forget the job. If it does not hear, its own bound holds.
 */
static void
on_discarded(void *context, const struct http_response *response)
{
    (void)context;
    (void)response;
}

static void
discard(const struct drawbar *self)
{
    char url[URL_BYTES];
    struct http_request wanted = { .method = "DELETE",
                                   .url = url,
                                   .limit_ms = LIMIT_INSTANCE_ANSWER_MS,
                                   .response_max = LIMIT_INSTANCE_STATE };
    snprintf(url, sizeof url, "%s/v1/jobs/%s", self->host->url, self->id);
    http_client_start(self->host->http, &wanted, on_discarded, NULL);
}

static void
on_fetched(void *context, const struct http_response *response)
{
    struct drawbar *self = context;
    struct drawn_picture picture = { .length = response->body_length };
    self->call = NULL;
    if (response->status == 0 && response->error == EMSGSIZE) {
        fail(self, (struct failure){ .code = FAIL_BAD_PICTURE, .message = "a picture over 32 MiB" },
             false);
        return;
    }
    if (response->status == 0) {
        if (response->error == ECONNREFUSED || !retry(self)) {
            fail_lost(self, response, "while fetching the picture");
        }
        return;
    }
    if (response->status != 200) {
        fail_status(self, response, false);
        return;
    }
    picture.bytes = malloc(picture.length + 1); /* never NULL for an empty one */
    if (picture.bytes == NULL) {
        abort();
    }
    memcpy(picture.bytes, picture.length == 0 ? "" : response->body, picture.length);
    picture.seed = self->view.has_seed[self->fetched] ? self->view.seeds[self->fetched]
                                                      : self->seed + self->fetched;
    self->host->on_picture(self->host->context, self->fetched++, &picture);
    if (self->phase != PHASE_FETCH) {
        return; /* interrupted in the report */
    }
    if (self->fetched < self->n) {
        self->retries = 0;
        go(self, PHASE_FETCH);
        return;
    }
    discard(self);
    self->phase = PHASE_IDLE;
    self->host->on_drawn(self->host->context, self->view.gpu_ms);
    be_free(self);
}

/* -- REMOVE -- */

static void
on_removed(void *context, const struct http_response *response)
{
    struct drawbar *self = context;
    self->call = NULL;
    if (response->error == ECONNREFUSED || response->status == 404) {
        be_free(self);
        return;
    }
    if (!self->asked_to_end) {
        self->asked_to_end = response->status >= 200 && response->status < 300;
        /* Anything else is tried again for as long as the host is willing to wait. */
        timer_in_ms(self->pause, self->asked_to_end ? 0 : RETRY_MS);
        return;
    }
    if (response->status == 200 &&
        job_view_parse(&self->view, response->body, response->body_length) &&
        job_view_has_ended(&self->view)) {
        discard(self);
        be_free(self);
        return;
    }
    timer_in_ms(self->pause, RETRY_MS / 4);
}

/* -- the phases -- */

static void
ask(struct drawbar *self)
{
    char path[96];
    switch (self->phase) {
    case PHASE_SUBMIT:
        request(self, "POST", "", LIMIT_INSTANCE_ANSWER_MS, on_submitted);
        return;
    case PHASE_POLL:
        self->asked_ms = clock_mono_ms();
        snprintf(path, sizeof path, "/%s?wait=%d&since=%u", self->id, LIMIT_INSTANCE_POLL_S,
                 self->step);
        request(self, "GET", path, LIMIT_INSTANCE_POLL_S * 1000 + POLL_MARGIN_MS, on_polled);
        return;
    case PHASE_FETCH:
        snprintf(path, sizeof path, "/%s/images/%u", self->id, self->fetched);
        request(self, "GET", path, LIMIT_INSTANCE_ANSWER_MS, on_fetched);
        return;
    case PHASE_REMOVE:
        snprintf(path, sizeof path, "/%s", self->id);
        request(self, self->asked_to_end ? "GET" : "DELETE", path, LIMIT_INSTANCE_ANSWER_MS,
                on_removed);
        return;
    case PHASE_IDLE:
    case PHASE_COUNT:
        break;
    }
    assert(false);
}

static void
go(struct drawbar *self, enum phase phase)
{
    timer_stop(self->pause);
    self->phase = phase;
    ask(self);
}

static void
on_pause(void *context)
{
    ask(context);
}

/* -- the driver -- */

static void
drawbar_close(void **self_p)
{
    struct drawbar *self = *self_p;
    if (self == NULL) {
        return;
    }
    http_call_cancel(&self->probe);
    if (self->pause != NULL) {
        forget(self);
    }
    timer_destroy(&self->pause);
    free(self);
    *self_p = NULL;
}

static int
drawbar_open(void **out, const struct driver_host *host)
{
    struct drawbar *self = calloc(1, sizeof *self);
    if (self == NULL || timer_new(&self->pause, host->reactor, on_pause, self) != 0) {
        free(self);
        return -ENOMEM;
    }
    self->host = host;
    *out = self;
    return 0;
}

static void
on_probed(void *context, const struct http_response *response)
{
    struct drawbar *self = context;
    struct health health = { 0 };
    self->probe = NULL;
    if (response->status == 0) {
        snprintf(health.message, sizeof health.message, "%s",
                 response->message[0] != '\0' ? response->message : strerror(response->error));
    } else if (response->status != 200 && response->status != 503) {
        snprintf(health.message, sizeof health.message, "/healthz answers HTTP %d",
                 response->status);
    } else {
        health_parse(&health, response->body, response->body_length);
        health.ready = health.ready && response->status == 200;
    }
    self->host->on_probed(self->host->context, &health);
}

static void
drawbar_probe(void *context)
{
    struct drawbar *self = context;
    char url[URL_BYTES];
    struct http_request wanted = { .method = "GET",
                                   .url = url,
                                   .limit_ms = LIMIT_PROBE_ANSWER_MS,
                                   .response_max = LIMIT_INSTANCE_STATE };
    assert(self->probe == NULL);
    snprintf(url, sizeof url, "%s/healthz", self->host->url);
    self->probe = http_client_start(self->host->http, &wanted, on_probed, self);
}

static void
drawbar_probe_cancel(void *context)
{
    struct drawbar *self = context;
    http_call_cancel(&self->probe);
}

static int
drawbar_draw(void *context, const struct draw_request *wanted)
{
    struct drawbar *self = context;
    assert(self->phase == PHASE_IDLE);
    self->body = job_text(wanted);
    if (self->body == NULL) {
        return -EINVAL;
    }
    snprintf(self->id, sizeof self->id, "%s", wanted->id);
    self->n = wanted->envelope->n;
    self->seed = wanted->body->seed;
    self->interrupted = self->maybe_taken = self->taken = self->asked_to_end = false;
    self->retries = self->step = self->fetched = 0;
    go(self, PHASE_SUBMIT);
    return 0;
}

static void
drawbar_interrupt(void *context)
{
    struct drawbar *self = context;
    switch (self->phase) {
    case PHASE_SUBMIT:
        /* A DELETE that overtakes the POST would remove nothing and leave a job that draws. */
        self->interrupted = true;
        if (self->call != NULL) {
            return;
        }
        break;
    case PHASE_POLL:
    case PHASE_FETCH:
        http_call_cancel(&self->call);
        break;
    case PHASE_IDLE:
    case PHASE_REMOVE:
    case PHASE_COUNT:
        return;
    }
    go(self, PHASE_REMOVE);
}

const struct driver driver_drawbar = {
    .name = "drawbar",
    .features = DRIVER_STEPS | DRIVER_INTERRUPT | DRIVER_QUEUE,
    .open = drawbar_open,
    .close = drawbar_close,
    .probe = drawbar_probe,
    .probe_cancel = drawbar_probe_cancel,
    .draw = drawbar_draw,
    .interrupt = drawbar_interrupt,
};
