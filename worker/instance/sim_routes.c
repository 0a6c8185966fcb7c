#include "worker/instance/sim_routes.h"
#include "common/ids.h"
#include "common/scope.h"
#include "worker/instance/sim_order.h"
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A long poll. */
struct sim_waiter {
    LIST_ENTRY(sim_waiter) link; /* of its job */
    struct sim_routes *routes;
    struct sim_job *job;
    struct http_exchange *exchange;
    struct timer *timer;
    int64_t since; /* a step above it is news */
};

struct sim_routes {
    struct reactor *reactor;
    const char *model;
    struct sim_jobs *jobs;
    struct timer *startup;
    bool ready, releasing;
    uint32_t n_waiters;
    char epoch[17];
};

/* -- answers -- */

/* Takes the document. */
static void
answer_json(struct http_exchange *exchange, int status, json_t *document)
{
    char *text = document == NULL ? NULL : json_dumps(document, JSON_COMPACT);
    json_decref(document);
    if (text == NULL) {
        http_respond(exchange, 500, NULL, NULL, 0); /* no memory */
        return;
    }
    http_respond_take(exchange, status, "application/json", text, strlen(text));
}

static void
answer_error(struct http_exchange *exchange, int status, const char *code, const char *message)
{
    answer_json(exchange, status,
                json_pack("{s:{s:s,s:s}}", "error", "code", code, "message", message));
}

static json_t *
job_document(const struct sim_routes *self, const struct sim_job *job)
{
    json_t *images = json_array();
    for (uint32_t i = 0; job->state == SIM_SUCCEEDED && i < job->n; i++) {
        json_array_append_new(images, json_pack("{s:i,s:i,s:i,s:I,s:I}", "index", (int)i, "width",
                                                (int)job->width, "height", (int)job->height, "seed",
                                                (json_int_t)(uint32_t)(job->seed + i), "bytes",
                                                (json_int_t)job->images[i].length));
    }
    json_t *document =
        json_pack("{s:s,s:s,s:i,s:i,s:I,s:I,s:I,s:o,s:s}", "id", job->id, "state",
                  sim_state_name(job->state), "step", (int)job->step, "steps", (int)job->steps,
                  "queue_ms", (json_int_t)job->queue_ms, "gpu_ms", (json_int_t)job->gpu_ms,
                  "encode_ms", (json_int_t)job->encode_ms, "images", images, "epoch", self->epoch);
    if (document != NULL && job->error_code != NULL) {
        json_object_set_new(
            document, "error",
            json_pack("{s:s,s:s}", "code", job->error_code, "message", job->error_message));
    }
    return document;
}

/* -- long polls -- */

static void
waiter_free(struct sim_waiter *waiter)
{
    LIST_REMOVE(waiter, link);
    waiter->routes->n_waiters--;
    timer_destroy(&waiter->timer);
    free(waiter);
}

static void
waiter_answer(void *context)
{
    struct sim_waiter *waiter = context;
    answer_json(waiter->exchange, 200, job_document(waiter->routes, waiter->job));
    waiter_free(waiter);
}

static void
waiter_gone(void *context)
{
    waiter_free(context);
}

static bool
is_over(const struct sim_job *job)
{
    return job->state != SIM_QUEUED && job->state != SIM_RUNNING;
}

static void
on_change(void *context, struct sim_job *job)
{
    (void)context;
    struct sim_waiter *waiter = LIST_FIRST(&job->waiters);
    while (waiter != NULL) {
        struct sim_waiter *next = LIST_NEXT(waiter, link);
        if (is_over(job) || (int64_t)job->step > waiter->since) {
            waiter_answer(waiter);
        }
        waiter = next;
    }
}

static void
hold(struct sim_routes *self, struct http_exchange *exchange, struct sim_job *job, int64_t since,
     int64_t wait_ms)
{
    struct sim_waiter *waiter = calloc(1, sizeof *waiter);
    if (waiter == NULL || timer_new(&waiter->timer, self->reactor, waiter_answer, waiter) != 0) {
        free(waiter);
        answer_json(exchange, 200, job_document(self, job));
        return;
    }
    waiter->routes = self;
    waiter->job = job;
    waiter->exchange = exchange;
    waiter->since = since;
    LIST_INSERT_HEAD(&job->waiters, waiter, link);
    self->n_waiters++;
    http_on_gone(exchange, waiter_gone, waiter);
    timer_in_ms(waiter->timer, wait_ms);
}

/* A number of the query; *value stays as it is if absent. False: answered with 400. */
static bool
read_argument(struct http_exchange *exchange, const char *name, double most, double *value)
{
    char text[32];
    char *end = NULL;
    if (!http_query_get(exchange, name, text, sizeof text) &&
        strstr(http_query(exchange), name) == NULL) {
        return true; /* absent; what is there and cannot be decoded is no number */
    }
    double number = strtod(text, &end);
    if (end == text || *end != '\0' || !(number >= 0 && number <= most)) {
        char message[80];
        (void)snprintf(message, sizeof message, "%s must be a number from 0 to %.0f", name, most);
        answer_json(exchange, 400,
                    json_pack("{s:{s:s,s:s,s:s}}", "error", "code", "bad_argument", "message",
                              message, "field", name));
        return false;
    }
    *value = number;
    return true;
}

/* -- the routes -- */

static void
show_health(struct sim_routes *self, struct http_exchange *exchange)
{
    const struct sim_job *running = sim_jobs_running(self->jobs);
    json_t *document =
        json_pack("{s:b,s:b,s:s,s:s,s:i,s:s?,s:f,s:s,s:i,s:[s]}", "ready", self->ready, "simulated",
                  true, "model", self->model, "epoch", self->epoch, "queue_depth",
                  (int)sim_jobs_queued(self->jobs), "running", running == NULL ? NULL : running->id,
                  "last_step_ms", sim_jobs_last_step_ms(self->jobs), "device", "simulated",
                  "max_pixels", LIMIT_SIDE_MAX * LIMIT_SIDE_MAX, "formats", "png");
    answer_json(exchange, self->ready ? 200 : 503, document);
}

static void
submit(struct sim_routes *self, struct http_exchange *exchange)
{
    struct sim_order order = { 0 };
    struct sim_complaint complaint;
    struct sim_job *job = NULL;
    json_t *document = NULL;
    size_t length = 0;
    const char *body = http_body(exchange, &length);
    if (!sim_order_read(body, length, &order, &document, &complaint)) {
        json_t *error =
            json_pack("{s:s,s:s}", "code", complaint.code, "message", complaint.message);
        if (complaint.field[0] != '\0') {
            json_object_set_new(error, "field", json_string(complaint.field));
        }
        answer_json(exchange, complaint.status, json_pack("{s:o}", "error", error));
        return;
    }
    switch (sim_jobs_submit(self->jobs, &order, &job)) {
    case SIM_ACCEPTED:
        answer_json(
            exchange, 202,
            json_pack("{s:s,s:s,s:s}", "id", job->id, "state", "queued", "epoch", self->epoch));
        break;
    case SIM_KNOWN:
        answer_json(exchange, 200, job_document(self, job));
        break;
    case SIM_FULL:
        http_add_header(exchange, "Retry-After", "1");
        answer_error(exchange, 429, "queue_full", "as many jobs wait as may");
        break;
    case SIM_VERDICT_COUNT:
        assert(false);
    }
    json_decref(document);
}

static void
poll_job(struct sim_routes *self, struct http_exchange *exchange, struct sim_job *job)
{
    double wait_s = 0;
    double since = LIMIT_STEPS; /* absent: only the end is news */
    if (!read_argument(exchange, "wait", LIMIT_INSTANCE_WAIT_S, &wait_s) ||
        !read_argument(exchange, "since", LIMIT_STEPS, &since)) {
        return;
    }
    bool news = is_over(job) || (int64_t)job->step > (int64_t)since;
    if (news || wait_s == 0 || self->releasing || self->n_waiters >= LIMIT_INSTANCE_POLLS) {
        answer_json(exchange, 200, job_document(self, job));
        return;
    }
    hold(self, exchange, job, (int64_t)since, (int64_t)(wait_s * 1000));
}

static void
delete_job(struct sim_routes *self, struct http_exchange *exchange, struct sim_job *job)
{
    char id[sizeof job->id];
    memcpy(id, job->id, sizeof id);
    enum sim_state state = sim_jobs_delete(self->jobs, job);
    answer_json(exchange, 200, json_pack("{s:s,s:s}", "id", id, "state", sim_state_name(state)));
}

static void
send_image(struct http_exchange *exchange, const struct sim_job *job, const char *number)
{
    bool known = job->state == SIM_SUCCEEDED && number[0] >= '0' && number[0] <= '9' &&
                 number[1] == '\0' && (uint32_t)(number[0] - '0') < job->n;
    if (!known) {
        answer_error(exchange, 404, "no_image", "this job has no such image, or not yet");
        return;
    }
    const struct sim_image *image = &job->images[number[0] - '0'];
    http_add_header(exchange, "X-Simulated", "true");
    http_respond(exchange, 200, "image/png", image->bytes, image->length);
}

static void
refuse_method(struct http_exchange *exchange, const char *allowed)
{
    http_add_header(exchange, "Allow", allowed);
    answer_error(exchange, 405, "bad_method", "see the header Allow");
}

/* /v1/jobs/{id} and /v1/jobs/{id}/images/{i}; `rest` begins at the id. */
static void
route_job(struct sim_routes *self, struct http_exchange *exchange, const char *rest)
{
    char id[LIMIT_INSTANCE_JOB_ID + 1] = "";
    size_t length = strcspn(rest, "/");
    const char *number = strncmp(rest + length, "/images/", 8) == 0 ? rest + length + 8 : NULL;
    bool get = http_method(exchange) == HTTP_GET || http_method(exchange) == HTTP_HEAD;
    if (length < sizeof id) {
        memcpy(id, rest, length);
    }
    if (!sim_job_id_is_good(id) || (rest[length] != '\0' && number == NULL)) {
        answer_error(exchange, 404, "unknown_path", "no such resource");
        return;
    }
    if (!get && (number != NULL || http_method(exchange) != HTTP_DELETE)) {
        refuse_method(exchange, number != NULL ? "GET, HEAD" : "GET, HEAD, DELETE");
        return;
    }
    struct sim_job *job = sim_jobs_find(self->jobs, id);
    if (job == NULL) {
        answer_error(exchange, 404, "unknown_job", "no such job, or it was dropped");
    } else if (number != NULL) {
        send_image(exchange, job, number);
    } else if (get) {
        poll_job(self, exchange, job);
    } else {
        delete_job(self, exchange, job);
    }
}

void
sim_routes_request(void *context, struct http_exchange *exchange)
{
    struct sim_routes *self = context;
    const char *path = http_path(exchange);
    enum http_method method = http_method(exchange);
    if (strcmp(path, "/healthz") == 0) {
        if (method == HTTP_GET || method == HTTP_HEAD) {
            show_health(self, exchange);
        } else {
            refuse_method(exchange, "GET, HEAD");
        }
    } else if (strncmp(path, "/v1/jobs", 8) != 0 || (path[8] != '\0' && path[8] != '/')) {
        answer_error(exchange, 404, "unknown_path", "no such resource");
    } else if (!self->ready) {
        http_add_header(exchange, "Retry-After", "1");
        answer_error(exchange, 503, "not_ready", "the instance is starting");
    } else if (path[8] == '/') {
        route_job(self, exchange, path + 9);
    } else if (method == HTTP_POST) {
        submit(self, exchange);
    } else {
        refuse_method(exchange, "POST");
    }
}

/* -- life -- */

static void
become_ready(void *context)
{
    struct sim_routes *self = context;
    self->ready = true;
}

static void
release_job(struct sim_job *job)
{
    struct sim_waiter *waiter = LIST_FIRST(&job->waiters);
    while (waiter != NULL) {
        struct sim_waiter *next = LIST_NEXT(waiter, link);
        waiter_answer(waiter);
        waiter = next;
    }
}

void
sim_routes_release(struct sim_routes *self)
{
    self->releasing = true;
    sim_jobs_each_open(self->jobs, release_job);
}

int
sim_routes_new(struct sim_routes **out, struct reactor *reactor,
               const struct sim_routes_config *config)
{
    struct sim_routes *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return -ENOMEM;
    }
    self->reactor = reactor;
    self->model = config->model;
    (void)snprintf(self->epoch, sizeof self->epoch, "%016" PRIx64, random_u64());
    struct sim_jobs_config jobs = config->jobs;
    jobs.on_change = on_change;
    jobs.context = self;
    int rc = sim_jobs_new(&self->jobs, reactor, &jobs);
    rc = rc ? rc : timer_new(&self->startup, reactor, become_ready, self);
    if (rc != 0) {
        sim_routes_destroy(&self);
        return rc;
    }
    self->ready = config->startup_ms == 0;
    if (!self->ready) {
        timer_in_ms(self->startup, config->startup_ms);
    }
    *out = self;
    return 0;
}

void
sim_routes_destroy(struct sim_routes **self_p)
{
    struct sim_routes *self = *self_p;
    if (self == NULL) {
        return;
    }
    assert(self->n_waiters == 0);
    timer_destroy(&self->startup);
    sim_jobs_destroy(&self->jobs);
    free(self);
    *self_p = NULL;
}
