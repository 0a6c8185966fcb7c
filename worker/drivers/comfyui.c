/*
 * comfyui — the driver of ComfyUI: a workflow from a file, filled for each picture (workflow.h).
 *
 *     SUBMIT   POST /prompt              a prompt_id
 *     QUEUE    GET /queue                whether it waits or is drawn; in neither for a while, and
 *                                        not in the history: it was lost in a restart
 *     HISTORY  GET /history/ID           {} until it has ended, then the names of its files
 *     VIEW     GET /view?filename=...    the picture
 *     interrupted: QUEUE, and by what it says POST /interrupt {prompt_id} or POST /queue {delete},
 *              until the job is gone from it
 *
 * Beside it a WebSocket is listened to (comfyui_watch.h), for steps (comfyui_progress.h) and to ask
 * the moment that there is something to ask for. Nothing depends on it: where it is missing, no
 * step is told and the polling goes on, more often.
 *
 * A prompt that waits behind somebody else's has not begun, and its silence is no fault.
 * An old ComfyUI ignores the prompt_id of an interrupt, so one is sent only while our job is what
 * it draws.
 */
#include "common/scope.h"
#include "worker/drivers/comfyui_json.h"
#include "worker/drivers/comfyui_progress.h"
#include "worker/drivers/comfyui_watch.h"
#include "worker/drivers/workflow.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { QUEUE_POLLS = 4, LOST_LOOKS = 2, LOST_ANSWERS = 3, WATCHED_LOOK_MS = 1000 };

enum phase { PHASE_SUBMIT, PHASE_QUEUE, PHASE_HISTORY, PHASE_VIEW, PHASE_COUNT };

struct comfyui {
    struct kit kit;
    json_t *workflow; /* NULL: problem */
    const char *problem;
    struct comfyui_watch *watch;
    struct health health; /* held until it is known whether steps are told */
    bool health_held;

    /* of the present picture's prompt */
    enum phase phase;
    struct comfyui_progress progress; /* its id is "" until it is submitted */
    bool begun;                       /* it is drawn */
    bool waits;                       /* was told to */
    bool opaque;                      /* its steps are not told, to its end */
    bool is_over;                     /* its end is in the history: look at once */
    bool orphan;                      /* submitted without an answer: to be found and stopped */
    bool again;                       /* its file was gone: the node that saves it runs anew */
    char saver[COMFYUI_ID];           /* that node */
    char view[LIMIT_INSTANCE_PATH];
    uint32_t polls;
    uint32_t absent;       /* looks in a row that found it in neither queue nor history */
    uint32_t lost_answers; /* in a row */
};

static void draw_next(struct comfyui *self);
static void draw_again(struct comfyui *self);
static void tell_health(struct comfyui *self);

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

/* -- how far it is -- */

static bool
is_watched(const struct comfyui *self)
{
    return comfyui_watch_state(self->watch) == COMFYUI_OPEN;
}

static int64_t
look_ms(const struct comfyui *self)
{
    return is_watched(self) ? WATCHED_LOOK_MS : LIMIT_INSTANCE_LOOK_MS;
}

/* The present prompt is drawn. */
static void
begin(struct comfyui *self)
{
    if (!self->begun) {
        self->begun = true;
        self->opaque = !is_watched(self);
        kit_taken(&self->kit);
        kit_work(&self->kit, !self->opaque);
    }
}

/* Its end is in the history. */
static void
look_now(struct comfyui *self)
{
    self->is_over = true;
    if (!self->kit.interrupted && self->kit.main.call == NULL &&
        (self->phase == PHASE_HISTORY || self->phase == PHASE_QUEUE)) {
        self->is_over = false;
        go(self, PHASE_HISTORY, 0);
    }
}

static void
on_heard(void *context, const char *text, size_t length)
{
    struct comfyui *self = context;
    double before = self->progress.part;
    if (!self->kit.drawing || self->kit.interrupted) {
        return;
    }
    switch (comfyui_progress_hear(&self->progress, text, length)) {
    case COMFYUI_NOTHING:
        return;
    case COMFYUI_OVER:
        look_now(self);
        return;
    case COMFYUI_BEGUN:
    case COMFYUI_WORK:
        break;
    }
    begin(self);
    if (self->progress.part > before) {
        kit_step(&self->kit, self->progress.part);
    }
    if (!self->opaque) {
        kit_work(&self->kit, true);
    }
}

/* A socket that is lost and not had again at once: what is drawn is not watched to its end. It may
 * come back, but what was missed meanwhile would count as silence. */
static void
on_watch_change(void *context)
{
    struct comfyui *self = context;
    if (self->kit.drawing && self->begun && !self->opaque && !is_watched(self)) {
        self->opaque = true;
        kit_work(&self->kit, false);
    }
    if (self->health_held) {
        tell_health(self);
    }
}

/* -- VIEW -- */

static void
on_viewed(void *context, const struct http_response *response)
{
    struct comfyui *self = context;
    kit_over(&self->kit.main);
    if (response->status == 404 && self->again) {
        kit_fail_error(&self->kit, "/view answers HTTP 404 to a picture that was saved just now");
        return;
    }
    if (response->status == 404) {
        /* Its nodes were cached, and somebody has removed the file that they made once. */
        self->again = true;
        draw_again(self);
        return;
    }
    if (is_lost(self, response, "while fetching the picture")) {
        return;
    }
    self->progress.id[0] = '\0';
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
    const json_t *entry = json_object_get(root, self->progress.id);
    if (entry == NULL && self->is_over) {
        self->is_over = false;
        go(self, PHASE_HISTORY, 0);
        return;
    }
    if (entry == NULL) {
        bool look = !self->begun || is_watched(self) || ++self->polls % QUEUE_POLLS == 0;
        go(self, look ? PHASE_QUEUE : PHASE_HISTORY, look ? 0 : look_ms(self));
        return;
    }
    const json_t *status = json_object_get(entry, "status");
    const char *word = json_string_value(json_object_get(status, "status_str"));
    const char *saver = NULL;
    if (word != NULL && strcmp(word, "success") != 0) {
        char why[COMFYUI_WHY];
        comfyui_why(status, why);
        kit_fail_error(&self->kit, why);
    } else if (comfyui_picture(json_object_get(entry, "outputs"), self->view, &saver)) {
        begin(self); /* it has been, however short */
        if (self->kit.interrupted) {
            return;
        }
        snprintf(self->saver, sizeof self->saver, "%.*s", COMFYUI_ID - 1, saver);
        go(self, PHASE_VIEW, 0);
    } else {
        kit_fail_error(&self->kit, "the workflow put out no picture (SaveImage is missing?)");
    }
}

/* -- QUEUE -- */

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
    json_t *body = running ? json_pack("{s:s}", "prompt_id", self->progress.id)
                           : json_pack("{s:[s]}", "delete", self->progress.id);
    kit_ask(&self->kit, &self->kit.main,
            &(struct kit_request){ .method = "POST",
                                   .path = running ? "/interrupt" : "/queue",
                                   .body = body,
                                   .limit_ms = LIMIT_INSTANCE_ANSWER_MS,
                                   .response_max = LIMIT_INSTANCE_STATE },
            on_stop_heard);
}

/* Looks for the prompt whose submit was not answered. */
static void
adopt(struct comfyui *self, const json_t *queue)
{
    const char *client = comfyui_watch_client(self->watch);
    const char *id = comfyui_of_client(json_object_get(queue, "queue_running"), client);
    id = id != NULL ? id : comfyui_of_client(json_object_get(queue, "queue_pending"), client);
    if (comfyui_progress_name(&self->progress, id)) {
        self->orphan = false;
    } else {
        self->absent++;
    }
}

static void
on_queue(void *context, const struct http_response *response)
{
    struct comfyui *self = context;
    kit_over(&self->kit.main);
    if (response->error == EMSGSIZE && !self->kit.interrupted) {
        go(self, PHASE_HISTORY, look_ms(self)); /* many wait: the history tells enough */
        return;
    }
    if (is_lost(self, response, "while drawing")) {
        return;
    }
    CLEANUP(kit_json_free) json_t *root = kit_json(response);
    if (!json_is_array(json_object_get(root, "queue_running"))) {
        kit_fail_error(&self->kit, "/queue answers nothing that makes sense");
        return;
    }
    if (self->orphan) {
        adopt(self, root);
    }
    const char *id = self->progress.id;
    bool running = comfyui_lists(json_object_get(root, "queue_running"), id);
    bool waiting = comfyui_lists(json_object_get(root, "queue_pending"), id);
    if (self->kit.interrupted) {
        if (running || waiting) {
            stop(self, running);
        } else if (self->orphan && self->absent < LOST_LOOKS) {
            go(self, PHASE_QUEUE, LIMIT_INSTANCE_LOOK_MS); /* it may be on its way in */
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
    if (running) {
        begin(self);
        if (self->kit.interrupted) {
            return;
        }
    } else if (waiting && !self->waits && !self->begun) {
        self->waits = true;
        kit_work(&self->kit, false); /* behind somebody else's, who knows how long */
    }
    go(self, PHASE_HISTORY, self->is_over ? 0 : look_ms(self));
}

/* -- SUBMIT -- */

static void
on_submitted(void *context, const struct http_response *response)
{
    struct comfyui *self = context;
    kit_over(&self->kit.main);
    if (response->status == 0 && response->error == ECONNREFUSED) {
        kit_fail_lost(&self->kit, response, "submit");
        return;
    }
    if (response->status == 0) { /* it may have it, and would draw it before the next one */
        self->orphan = true;
        kit_report_lost(&self->kit, response, "submit");
        go(self, PHASE_QUEUE, 0);
        return;
    }
    if (response->status == 400) {
        /* A refused workflow is the fault of whoever wrote it, or a file is missing. */
        char why[COMFYUI_WHY];
        comfyui_refusal(response, why);
        kit_fail(&self->kit, &(struct failure){ .code = FAIL_INSTANCE_ERROR, .message = why });
        return;
    }
    if (response->status != 200) {
        kit_fail_status(&self->kit, response, false);
        return;
    }
    CLEANUP(kit_json_free) json_t *root = kit_json(response);
    const char *id = json_string_value(json_object_get(root, "prompt_id"));
    if (!comfyui_progress_name(&self->progress, id)) {
        kit_fail_error(&self->kit, "accepted the job with an answer that makes no sense");
        return;
    }
    go(self, PHASE_QUEUE, 0);
}

/* The same picture with a new prompt. */
static void
draw_again(struct comfyui *self)
{
    comfyui_progress_begin(&self->progress, self->workflow, self->kit.order.steps);
    self->begun = self->waits = self->opaque = self->is_over = self->orphan = false;
    self->polls = self->absent = self->lost_answers = 0;
    go(self, PHASE_SUBMIT, 0);
}

static void
draw_next(struct comfyui *self)
{
    self->again = false;
    draw_again(self);
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
    if (self->again) {
        workflow_vary(graph, self->saver);
    }
    json_t *body = json_pack("{s:o, s:s, s:{s:s}}", "prompt", graph, "client_id",
                             comfyui_watch_client(self->watch), "extra_data", "preview_method",
                             "none"); /* nobody looks at previews: the GPU is not to make them */
    kit_ask(&self->kit, &self->kit.main,
            &(struct kit_request){ .method = "POST",
                                   .path = "/prompt",
                                   .body = body,
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
    char path[COMFYUI_ID + 16];
    if (self->kit.interrupted && self->progress.id[0] == '\0' && !self->orphan) {
        kit_free(&self->kit); /* interrupted between two pictures */
        return;
    }
    switch (self->phase) {
    case PHASE_SUBMIT:
        submit(self);
        return;
    case PHASE_HISTORY:
        snprintf(path, sizeof path, "/history/%s", self->progress.id);
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
    if (self->progress.id[0] == '\0' && kit->main.call != NULL) {
        return; /* what is submitted cannot be stopped before it has an id */
    }
    kit_cancel(&kit->main);
    go(self, PHASE_QUEUE, 0);
}

/* -- health -- */

static void
tell_health(struct comfyui *self)
{
    struct health health = self->health;
    self->health_held = false;
    health.lacks = is_watched(self) ? 0 : DRIVER_STEPS;
    self->kit.host->on_probed(self->kit.host->context, &health);
}

static void
on_stats(void *context, const struct http_response *response)
{
    struct comfyui *self = context;
    CLEANUP(kit_json_free) json_t *root = response->status == 200 ? kit_json(response) : NULL;
    const json_t *device = json_array_get(json_object_get(root, "devices"), 0);
    struct health health = { .answered = true, .ready = true };
    kit_over(&self->kit.probe);
    if (!json_is_object(json_object_get(root, "system"))) {
        comfyui_watch_forget(self->watch);
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
    self->health = health;
    comfyui_watch_begin(self->watch, response->address);
    if (comfyui_watch_state(self->watch) == COMFYUI_OPENING) {
        self->health_held = true; /* until it has opened or failed */
    } else {
        tell_health(self);
    }
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
    self->health_held = false;
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
        comfyui_watch_destroy(&self->watch);
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
    struct comfyui_watch_config watch = {
        .kit = &self->kit, .on_text = on_heard, .on_change = on_watch_change, .context = self
    };
    if (comfyui_watch_new(&self->watch, &watch) != 0) {
        void *opened = self;
        comfyui_close(&opened);
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
    .features = DRIVER_STEPS | DRIVER_INTERRUPT,
    .words = WORD_LOGIN | WORD_KEY | WORD_WORKFLOW,
    .check = comfyui_check,
    .open = comfyui_open,
    .close = comfyui_close,
    .probe = comfyui_probe,
    .probe_cancel = comfyui_probe_cancel,
    .draw = comfyui_draw,
    .interrupt = comfyui_interrupt,
};
