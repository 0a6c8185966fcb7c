/*
 * comfyui — the driver of ComfyUI: a workflow from a file, filled for each picture (workflow.h).
 *
 *     SUBMIT   POST /prompt              a prompt_id
 *     HISTORY  GET /history/ID           {} until it has ended, then the names of its files
 *     QUEUE    GET /queue                every few polls: a job in neither was lost in a restart
 *     VIEW     GET /view?filename=...    the picture
 *     interrupted: QUEUE, and by what it says POST /interrupt {prompt_id} or POST /queue {delete},
 *              until the job is gone from it
 *
 * Steps are told only over a WebSocket, which this driver does not speak. An old ComfyUI ignores
 * the prompt_id of an interrupt, so one is sent only while our job is what it draws.
 */
#include "common/scope.h"
#include "worker/drivers/workflow.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ID_BYTES = 96, QUEUE_POLLS = 4, LOST_LOOKS = 2, LOST_ANSWERS = 3 };

enum phase { PHASE_SUBMIT, PHASE_HISTORY, PHASE_QUEUE, PHASE_VIEW, PHASE_COUNT };

struct comfyui {
    struct kit kit;
    json_t *workflow; /* NULL: problem */
    const char *problem;
    enum phase phase;
    char id[ID_BYTES]; /* of the present picture's prompt; "": not submitted */
    char view[LIMIT_INSTANCE_PATH];
    uint32_t polls;
    uint32_t absent;       /* looks in a row that found it in neither queue nor history */
    uint32_t lost_answers; /* in a row */
};

static void draw_next(struct comfyui *self);

static void
go(struct comfyui *self, enum phase phase, int64_t delay_ms)
{
    self->phase = phase;
    timer_in_ms(self->kit.pause, delay_ms);
}

/* An answer that is no answer: the same is asked again a few times. True: all is said. */
static bool
is_lost(struct comfyui *self, const struct http_response *response, const char *doing)
{
    if (response->status == 200) {
        self->lost_answers = 0;
        return false;
    }
    bool gone = response->status == 0 && response->error == ECONNREFUSED;
    if (!gone && ++self->lost_answers < LOST_ANSWERS) {
        timer_in_ms(self->kit.pause, LIMIT_INSTANCE_LOOK_MS);
    } else if (response->status == 0) {
        kit_fail_lost(&self->kit, response, doing);
    } else {
        kit_fail_status(&self->kit, response, false);
    }
    return true;
}

/* -- VIEW -- */

static void
on_viewed(void *context, const struct http_response *response)
{
    struct comfyui *self = context;
    kit_over(&self->kit.main);
    if (is_lost(self, response, "while fetching the picture")) {
        return;
    }
    self->id[0] = '\0';
    if (!kit_picture(&self->kit, response->body, response->body_length)) {
        return;
    }
    if (self->kit.made < self->kit.order.n) {
        draw_next(self);
    } else {
        kit_made_all(&self->kit);
    }
}

/* -- HISTORY -- */

/* The path of the first picture that a node has put out; a node's own order of names. */
static bool
find_picture(struct comfyui *self, json_t *outputs)
{
    const char *node = NULL;
    json_t *output = NULL;
    json_object_foreach(outputs, node, output)
    {
        const json_t *image = json_array_get(json_object_get(output, "images"), 0);
        const char *name = json_string_value(json_object_get(image, "filename"));
        const char *folder = json_string_value(json_object_get(image, "subfolder"));
        const char *type = json_string_value(json_object_get(image, "type"));
        if (name == NULL) {
            continue;
        }
        snprintf(self->view, sizeof self->view, "/view?filename=");
        bool fits = kit_escape(self->view, sizeof self->view - 16, name);
        strncat(self->view, "&subfolder=", sizeof self->view - strlen(self->view) - 1);
        fits = fits && kit_escape(self->view, sizeof self->view - 16, folder == NULL ? "" : folder);
        strncat(self->view, "&type=", sizeof self->view - strlen(self->view) - 1);
        return fits && kit_escape(self->view, sizeof self->view, type == NULL ? "output" : type);
    }
    return false;
}

/* What ComfyUI says of a workflow that ended badly. */
static void
ended_badly(struct comfyui *self, const json_t *status)
{
    char why[KIT_TEXT] = "no reason given";
    char message[KIT_TEXT + 32];
    size_t i = 0;
    const json_t *item = NULL;
    json_array_foreach(json_object_get(status, "messages"), i, item)
    {
        const json_t *text = json_object_get(json_array_get(item, 1), "exception_message");
        if (json_is_string(text)) {
            kit_text(text, why, sizeof why);
        } else if (json_is_string(json_array_get(item, 0)) &&
                   strcmp(json_string_value(json_array_get(item, 0)), "execution_interrupted") ==
                       0) {
            snprintf(why, sizeof why, "interrupted by somebody else");
        }
    }
    snprintf(message, sizeof message, "the workflow failed: %s", why);
    kit_fail_error(&self->kit, message);
}

static void
on_history(void *context, const struct http_response *response)
{
    struct comfyui *self = context;
    kit_over(&self->kit.main);
    if (is_lost(self, response, "while drawing")) {
        return;
    }
    CLEANUP(kit_json_free) json_t *root = kit_json(response);
    if (!json_is_object(root)) {
        kit_fail_error(&self->kit, "/history answers no JSON object");
        return;
    }
    const json_t *entry = json_object_get(root, self->id);
    if (entry == NULL) {
        bool look = ++self->polls % QUEUE_POLLS == 0;
        go(self, look ? PHASE_QUEUE : PHASE_HISTORY, look ? 0 : LIMIT_INSTANCE_LOOK_MS);
        return;
    }
    const json_t *status = json_object_get(entry, "status");
    const char *word = json_string_value(json_object_get(status, "status_str"));
    if (word != NULL && strcmp(word, "success") != 0) {
        ended_badly(self, status);
    } else if (find_picture(self, json_object_get(entry, "outputs"))) {
        go(self, PHASE_VIEW, 0);
    } else {
        kit_fail_error(&self->kit, "the workflow put out no picture (SaveImage is missing?)");
    }
}

/* -- QUEUE -- */

/* Entries are [number, prompt_id, graph, ...]. */
static bool
is_listed(const json_t *list, const char *id)
{
    size_t i = 0;
    const json_t *entry = NULL;
    json_array_foreach(list, i, entry)
    {
        const char *listed = json_string_value(json_array_get(entry, 1));
        if (listed != NULL && strcmp(listed, id) == 0) {
            return true;
        }
    }
    return false;
}

static void
on_stop_heard(void *context, const struct http_response *response)
{
    struct comfyui *self = context;
    (void)response; /* the queue tells whether it helped */
    kit_over(&self->kit.main);
    go(self, PHASE_QUEUE, LIMIT_INSTANCE_LOOK_MS);
}

static void
stop(struct comfyui *self, bool running)
{
    json_t *body = running ? json_pack("{s:s}", "prompt_id", self->id)
                           : json_pack("{s:[s]}", "delete", self->id);
    kit_ask(&self->kit, &self->kit.main,
            &(struct kit_request){ .method = "POST",
                                   .path = running ? "/interrupt" : "/queue",
                                   .body = body,
                                   .limit_ms = LIMIT_INSTANCE_ANSWER_MS,
                                   .response_max = LIMIT_INSTANCE_STATE },
            on_stop_heard);
}

static void
on_queue(void *context, const struct http_response *response)
{
    struct comfyui *self = context;
    kit_over(&self->kit.main);
    if (is_lost(self, response, "while drawing")) {
        return;
    }
    CLEANUP(kit_json_free) json_t *root = kit_json(response);
    if (!json_is_array(json_object_get(root, "queue_running"))) {
        kit_fail_error(&self->kit, "/queue answers nothing that makes sense");
        return;
    }
    bool running = is_listed(json_object_get(root, "queue_running"), self->id);
    bool waiting = is_listed(json_object_get(root, "queue_pending"), self->id);
    if (self->kit.interrupted) {
        if (running || waiting) {
            stop(self, running);
        } else {
            kit_free(&self->kit);
        }
        return;
    }
    self->absent = running || waiting ? 0 : self->absent + 1;
    if (self->absent >= LOST_LOOKS) { /* once, it may have ended between the two questions */
        kit_fail(&self->kit,
                 &(struct failure){ .code = FAIL_INSTANCE_DIED,
                                    .message = "no longer knows the job: it was restarted" });
        return;
    }
    go(self, PHASE_HISTORY, LIMIT_INSTANCE_LOOK_MS);
}

/* -- SUBMIT -- */

static void
on_submitted(void *context, const struct http_response *response)
{
    struct comfyui *self = context;
    kit_over(&self->kit.main);
    if (response->status == 0) {
        kit_fail_lost(&self->kit, response, "submit");
        return;
    }
    if (response->status != 200) {
        /* A refused workflow is the fault of whoever wrote it or of a missing file. */
        kit_fail_status(&self->kit, response, false);
        return;
    }
    CLEANUP(kit_json_free) json_t *root = kit_json(response);
    const char *id = json_string_value(json_object_get(root, "prompt_id"));
    if (id == NULL || id[0] == '\0' || strlen(id) >= sizeof self->id ||
        strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") !=
            strlen(id)) {
        kit_fail_error(&self->kit, "accepted the job with an answer that makes no sense");
        return;
    }
    snprintf(self->id, sizeof self->id, "%s", id);
    self->polls = self->absent = self->lost_answers = 0;
    go(self, self->kit.interrupted ? PHASE_QUEUE : PHASE_HISTORY,
       self->kit.interrupted ? 0 : LIMIT_INSTANCE_LOOK_MS);
    kit_taken(&self->kit);
}

static void
draw_next(struct comfyui *self)
{
    self->id[0] = '\0';
    go(self, PHASE_SUBMIT, 0);
}

static void
submit(struct comfyui *self)
{
    json_t *graph = self->workflow == NULL ? NULL : workflow_fill(self->workflow, &self->kit);
    if (graph == NULL) {
        kit_fail(&self->kit,
                 &(struct failure){ .code = FAIL_INSTANCE_REFUSED,
                                    .message = self->workflow == NULL
                                                   ? self->problem
                                                   : "the workflow has no place {guidance}" });
        return;
    }
    kit_ask(&self->kit, &self->kit.main,
            &(struct kit_request){ .method = "POST",
                                   .path = "/prompt",
                                   .body = json_pack("{s:o}", "prompt", graph),
                                   .limit_ms = LIMIT_INSTANCE_ANSWER_MS,
                                   .response_max = LIMIT_INSTANCE_STATE },
            on_submitted);
}

static void
get(struct comfyui *self, const char *path, size_t response_max, http_response_fn fn)
{
    kit_ask(&self->kit, &self->kit.main,
            &(struct kit_request){ .method = "GET",
                                   .path = path,
                                   .limit_ms = LIMIT_INSTANCE_ANSWER_MS,
                                   .response_max = response_max },
            fn);
}

static void
on_pause(void *context)
{
    struct comfyui *self = context;
    char path[ID_BYTES + 16];
    if (self->kit.interrupted && self->id[0] == '\0') {
        kit_free(&self->kit); /* interrupted between two pictures */
        return;
    }
    switch (self->phase) {
    case PHASE_SUBMIT:
        submit(self);
        return;
    case PHASE_HISTORY:
        snprintf(path, sizeof path, "/history/%s", self->id);
        get(self, path, LIMIT_INSTANCE_CONFIG, on_history);
        return;
    case PHASE_QUEUE:
        get(self, "/queue", LIMIT_INSTANCE_CONFIG, on_queue);
        return;
    case PHASE_VIEW:
        get(self, self->view, LIMIT_PICTURE_BYTES, on_viewed);
        return;
    case PHASE_COUNT:
        break;
    }
}

static int
comfyui_draw(void *context, const struct draw_request *wanted)
{
    struct comfyui *self = context;
    int rc = kit_begin(&self->kit, wanted);
    if (rc == 0) {
        draw_next(self);
    }
    return rc;
}

static void
comfyui_interrupt(void *context)
{
    struct comfyui *self = context;
    struct kit *kit = &self->kit;
    if (!kit->drawing || kit->interrupted) {
        return;
    }
    kit->interrupted = true;
    if (self->id[0] == '\0' && kit->main.call != NULL) {
        return; /* what is submitted cannot be stopped before it has an id */
    }
    kit_cancel(&kit->main);
    go(self, PHASE_QUEUE, 0);
}

/* -- health -- */

static void
on_stats(void *context, const struct http_response *response)
{
    struct comfyui *self = context;
    CLEANUP(kit_json_free) json_t *root = response->status == 200 ? kit_json(response) : NULL;
    const json_t *device = json_array_get(json_object_get(root, "devices"), 0);
    struct health health = { .answered = true, .ready = true };
    kit_over(&self->kit.probe);
    if (!json_is_object(json_object_get(root, "system"))) {
        kit_unhealthy(&self->kit, "/system_stats", response);
        return;
    }
    if (self->workflow == NULL) {
        health.answered = false;
        snprintf(health.message, sizeof health.message, "%s", self->problem);
    } else if (workflow_model(self->workflow) != NULL) {
        snprintf(health.model, sizeof health.model, "%.*s", LIMIT_MODEL_NAME,
                 workflow_model(self->workflow));
    }
    kit_text(json_object_get(device, "name"), health.device, sizeof health.device);
    self->kit.host->on_probed(self->kit.host->context, &health);
}

static void
comfyui_probe(void *context)
{
    struct comfyui *self = context;
    kit_look(&self->kit, "/system_stats", LIMIT_INSTANCE_STATE, on_stats);
}

static void
comfyui_probe_cancel(void *context)
{
    struct comfyui *self = context;
    kit_cancel(&self->kit.probe);
}

static const char *
comfyui_check(const struct driver_words *words)
{
    const char *problem = NULL;
    if (words->workflow[0] == '\0') {
        return "word workflow= is missing: the file of a workflow in API format";
    }
    json_decref(workflow_read(words->workflow, &problem));
    return problem;
}

static void
comfyui_close(void **self_p)
{
    struct comfyui *self = *self_p;
    if (self != NULL) {
        kit_close(&self->kit);
        json_decref(self->workflow);
        free(self);
        *self_p = NULL;
    }
}

static int
comfyui_open(void **out, const struct driver_host *host)
{
    struct comfyui *self = calloc(1, sizeof *self);
    if (self == NULL || kit_open(&self->kit, host, on_pause) != 0) {
        free(self);
        return -ENOMEM;
    }
    self->problem = "no workflow= is set";
    if (host->words != NULL && host->words->workflow[0] != '\0') {
        /* It was checked at the start; one that has gone since is told by the probe. */
        self->workflow = workflow_read(host->words->workflow, &self->problem);
    }
    *out = self;
    return 0;
}

const struct driver driver_comfyui = {
    .name = "comfyui",
    .features = DRIVER_INTERRUPT,
    .words = WORD_LOGIN | WORD_KEY | WORD_WORKFLOW,
    .check = comfyui_check,
    .open = comfyui_open,
    .close = comfyui_close,
    .probe = comfyui_probe,
    .probe_cancel = comfyui_probe_cancel,
    .draw = comfyui_draw,
    .interrupt = comfyui_interrupt,
};
