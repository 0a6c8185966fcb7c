#include "worker/drivers/kit.h"
#include "common/scope.h"
#include <assert.h>
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CREDENTIALS = 2 * LIMIT_ATTACH_WORD + 2 };
_Static_assert((int)KIT_AUTHORIZATION >=
                   (int)sodium_base64_ENCODED_LEN(CREDENTIALS, sodium_base64_VARIANT_ORIGINAL) + 32,
               "any login fits");

int
kit_open(struct kit *self, const struct driver_host *host, reactor_fn on_pause)
{
    self->host = host;
    return timer_new(&self->pause, host->reactor, on_pause, self);
}

static void
forget(struct kit *self)
{
    kit_cancel(&self->main);
    kit_cancel(&self->side);
    if (self->pause != NULL) {
        timer_stop(self->pause);
    }
    json_decref(self->order.prompt);
    json_decref(self->order.negative);
    self->order = (struct kit_order){ 0 };
    self->drawing = false;
}

void
kit_close(struct kit *self)
{
    forget(self);
    kit_cancel(&self->probe);
    timer_destroy(&self->pause);
}

int
kit_driver_open(void **out, size_t size, const struct driver_host *host, reactor_fn on_pause)
{
    struct kit *self = calloc(1, size);
    if (self == NULL || kit_open(self, host, on_pause) != 0) {
        free(self);
        return -ENOMEM;
    }
    *out = self;
    return 0;
}

void
kit_driver_close(void **self_p)
{
    if (*self_p != NULL) {
        kit_close(*self_p);
        free(*self_p);
        *self_p = NULL;
    }
}

void
kit_driver_probe_cancel(void *self)
{
    kit_cancel(&((struct kit *)self)->probe);
}

int
kit_begin(struct kit *self, const struct draw_request *request)
{
    const struct envelope *envelope = request->envelope;
    const struct job_body *body = request->body;
    assert(!self->drawing);
    struct kit_order order = { .prompt = json_stringn(body->prompt.bytes, body->prompt.length),
                               .width = envelope->width,
                               .height = envelope->height,
                               .steps = envelope->steps,
                               .n = envelope->n,
                               .seed = body->seed,
                               .guidance = body->guidance };
    if (body->negative_prompt.length > 0) {
        order.negative = json_stringn(body->negative_prompt.bytes, body->negative_prompt.length);
    }
    if (order.prompt == NULL || (body->negative_prompt.length > 0 && order.negative == NULL)) {
        json_decref(order.prompt);
        json_decref(order.negative);
        return -EINVAL;
    }
    self->order = order;
    self->made = 0;
    self->drawing = true;
    self->taken = self->interrupted = false;
    return 0;
}

/* -- asking -- */

void
kit_authorization(const struct kit *self, char out[KIT_AUTHORIZATION])
{
    const size_t size = KIT_AUTHORIZATION;
    const struct driver_words *words = self->host->words;
    char pair[CREDENTIALS];
    char encoded[sodium_base64_ENCODED_LEN(CREDENTIALS, sodium_base64_VARIANT_ORIGINAL)];
    out[0] = '\0';
    if (words == NULL) {
        return;
    }
    if (words->key[0] != '\0') {
        snprintf(out, size, "Authorization: Bearer %s", words->key);
    } else if (words->user[0] != '\0') {
        int length = snprintf(pair, sizeof pair, "%s:%s", words->user, words->password);
        sodium_bin2base64(encoded, sizeof encoded, (const unsigned char *)pair, (size_t)length,
                          sodium_base64_VARIANT_ORIGINAL);
        snprintf(out, size, "Authorization: Basic %s", encoded);
    }
}

void
kit_ask(struct kit *self, struct kit_ask *ask, const struct kit_request *request,
        http_response_fn fn)
{
    char url[KIT_URL_BYTES];
    char authorization[KIT_AUTHORIZATION];
    struct http_request wanted = { .method = request->method,
                                   .url = url,
                                   .limit_ms = request->limit_ms,
                                   .response_max = request->response_max,
                                   .on_bytes = request->on_bytes,
                                   .quiet_ms =
                                       request->on_bytes != NULL ? LIMIT_STREAM_QUIET_MS : 0 };
    assert(ask->call == NULL && ask->body == NULL);
    int length = snprintf(url, sizeof url, "%s%s", self->host->url, request->path);
    assert(length < (int)sizeof url);
    if (request->body != NULL) {
        ask->body = json_dumps(request->body, JSON_COMPACT | JSON_REAL_PRECISION(9));
        json_decref(request->body);
        if (ask->body == NULL) {
            abort(); /* out of memory: its parts are sound */
        }
        wanted.body = ask->body;
        wanted.body_length = strlen(ask->body);
        wanted.content_type = "application/json";
    }
    kit_authorization(self, authorization);
    wanted.headers[0] = authorization[0] == '\0' ? NULL : authorization;
    ask->call = http_client_start(self->host->http, &wanted, fn, self);
    if (ask->call == NULL) {
        abort(); /* out of memory: the URL was checked when it was set */
    }
}

void
kit_over(struct kit_ask *ask)
{
    ask->call = NULL;
    free(ask->body);
    ask->body = NULL;
}

void
kit_cancel(struct kit_ask *ask)
{
    http_call_cancel(&ask->call);
    kit_over(ask);
}

void
kit_look(struct kit *self, const char *path, size_t response_max, http_response_fn fn)
{
    kit_ask(self, &self->probe,
            &(struct kit_request){ .method = "GET",
                                   .path = path,
                                   .limit_ms = LIMIT_PROBE_ANSWER_MS,
                                   .response_max = response_max },
            fn);
}

void
kit_unhealthy(struct kit *self, const char *path, const struct http_response *response)
{
    struct health health = { 0 };
    if (response->status == 0) {
        snprintf(health.message, sizeof health.message, "%s",
                 response->message[0] != '\0' ? response->message : strerror(response->error));
    } else if (response->status == 401 || response->status == 403) {
        snprintf(health.message, sizeof health.message,
                 "%s answers HTTP %d: give user= and password=, or key=", path, response->status);
    } else if (response->status == 200) {
        snprintf(health.message, sizeof health.message, "%s answers nothing that makes sense",
                 path);
    } else {
        snprintf(health.message, sizeof health.message, "%s answers HTTP %d", path,
                 response->status);
    }
    self->host->on_probed(self->host->context, &health);
}

/* -- the order -- */

uint32_t
kit_seed(const struct kit *self)
{
    return self->order.seed + self->made;
}

double
kit_guidance_from_one(const struct kit *self)
{
    return self->order.guidance + 1.0;
}

/* -- reports -- */

void
kit_waiting(struct kit *self)
{
    if (!self->taken && !self->interrupted) {
        self->host->on_waiting(self->host->context);
    }
}

void
kit_taken(struct kit *self)
{
    if (!self->taken && !self->interrupted) {
        self->taken = true;
        self->host->on_taken(self->host->context);
    }
}

void
kit_step(struct kit *self, double part)
{
    const struct kit_order *order = &self->order;
    if (self->interrupted || !(part > 0) || part > 1) {
        return;
    }
    /* A hair more, so that 3/8 of eight steps is the third for all its rounding. */
    double done = (self->made + part) * order->steps / order->n + 1e-6;
    self->host->on_step(self->host->context, (uint32_t)done, order->steps);
}

void
kit_work(struct kit *self, bool tells)
{
    if (!self->interrupted) {
        self->host->on_work(self->host->context, tells);
    }
}

/* bytes: malloc'ed, the host's now. */
static bool
report_picture(struct kit *self, void *bytes, size_t length)
{
    struct drawn_picture picture = { .bytes = bytes, .length = length, .seed = kit_seed(self) };
    uint32_t i = self->made++;
    self->host->on_picture(self->host->context, i, &picture);
    return !self->interrupted;
}

bool
kit_picture(struct kit *self, const void *bytes, size_t length)
{
    char *copy = malloc(length + 1); /* never NULL for an empty one */
    if (copy == NULL) {
        abort();
    }
    memcpy(copy, length == 0 ? "" : bytes, length);
    return report_picture(self, copy, length);
}

bool
kit_picture_base64(struct kit *self, const json_t *value, bool *failed)
{
    const char *text = json_is_string(value) ? json_string_value(value) : "";
    size_t length = json_is_string(value) ? json_string_length(value) : 0;
    const char *comma =
        length > 5 && strncmp(text, "data:", 5) == 0 ? memchr(text, ',', length) : NULL;
    size_t n = 0;
    if (comma != NULL) {
        length -= (size_t)(comma + 1 - text);
        text = comma + 1;
    }
    unsigned char *bytes = malloc(length / 4 * 3 + 3);
    if (bytes == NULL) {
        abort();
    }
    *failed = length == 0 || sodium_base642bin(bytes, length / 4 * 3 + 3, text, length, NULL, &n,
                                               NULL, sodium_base64_VARIANT_ORIGINAL) != 0;
    if (*failed) {
        free(bytes);
        kit_fail(self, &(struct failure){ .code = FAIL_BAD_PICTURE,
                                          .message = "the answer holds no picture in base64" });
        return false;
    }
    return report_picture(self, bytes, n);
}

void
kit_made_all(struct kit *self)
{
    assert(self->made == self->order.n);
    if (!self->interrupted) {
        self->interrupted = true; /* an interrupt inside the report has nothing to stop */
        self->host->on_drawn(self->host->context, 0);
    }
    kit_free(self);
}

void
kit_free(struct kit *self)
{
    forget(self);
    self->host->on_free(self->host->context);
}

static void
report_failure(struct kit *self, const struct failure *failure)
{
    struct failure told = *failure;
    if (!self->interrupted) {
        told.taken = told.taken || self->taken;
        self->interrupted = true; /* an interrupt inside the report has nothing to stop */
        self->host->on_failed(self->host->context, &told);
    }
}

void
kit_fail(struct kit *self, const struct failure *failure)
{
    report_failure(self, failure);
    kit_free(self);
}

void
kit_report_lost(struct kit *self, const struct http_response *response, const char *doing)
{
    char message[KIT_TEXT];
    bool large = response->error == EMSGSIZE;
    snprintf(message, sizeof message, "%s: %s", doing,
             response->message[0] != '\0' ? response->message : strerror(response->error));
    report_failure(self, &(struct failure){ .code = large ? FAIL_BAD_PICTURE : FAIL_INSTANCE_DIED,
                                            .message = message,
                                            .taken = response->error != ECONNREFUSED });
}

void
kit_fail_lost(struct kit *self, const struct http_response *response, const char *doing)
{
    kit_report_lost(self, response, doing);
    kit_free(self);
}

void
kit_fail_status(struct kit *self, const struct http_response *response, bool blames_request)
{
    char why[KIT_TEXT];
    char message[KIT_TEXT + 16];
    struct failure failure = { .code = FAIL_INSTANCE_ERROR, .message = message };
    kit_reason(response, why, sizeof why);
    snprintf(message, sizeof message, "HTTP %d: %s", response->status, why);
    switch (response->status) {
    case 400:
    case 413:
    case 422:
        failure.code = blames_request ? FAIL_INSTANCE_REFUSED : FAIL_INSTANCE_ERROR;
        failure.final = blames_request;
        break;
    case 429:
    case 503:
        failure.busy = true;
        break;
    default:
        failure.taken = response->status >= 500;
    }
    kit_fail(self, &failure);
}

void
kit_fail_error(struct kit *self, const char *message)
{
    kit_fail(self,
             &(struct failure){ .code = FAIL_INSTANCE_ERROR, .message = message, .taken = true });
}

/* -- JSON -- */

json_t *
kit_json(const struct http_response *response)
{
    json_error_t error;
    if (response->body_length == 0) {
        return NULL;
    }
    json_t *root = json_loadb(response->body, response->body_length, 0, &error);
    if (root == NULL && json_error_code(&error) == json_error_numeric_overflow) {
        /* Gradio's app_id has 64 bits and no sign. */
        root = json_loadb(response->body, response->body_length, JSON_DECODE_INT_AS_REAL, &error);
    }
    return root;
}

void
kit_json_free(json_t **json_p)
{
    json_decref(*json_p);
    *json_p = NULL;
}

/* What may stand in a log line between quotes. */
static char
printable(char c)
{
    if ((unsigned char)c < ' ' || c == 0x7F || c == '"') {
        return '?';
    }
    return c;
}

void
kit_text(const json_t *value, char *out, size_t size)
{
    const char *text = json_is_string(value) ? json_string_value(value) : "";
    size_t length = 0;
    for (; text[length] != '\0' && length + 1 < size; length++) {
        out[length] = printable(text[length]);
    }
    while (length > 0 && ((unsigned char)text[length] & 0xC0U) == 0x80U) {
        length--; /* cut before a character, never inside */
    }
    out[length] = '\0';
}

/* The first of the places where servers put their reason. */
static const json_t *
reason_in(const json_t *root)
{
    const json_t *error = json_object_get(root, "error");
    const json_t *detail = json_object_get(root, "detail");
    const json_t *first = json_array_get(detail, 0); /* FastAPI: [{"loc":[..],"msg":".."}] */
    /* Where both are told, a bare "error" is but the class of it: {"error":"server_error",
     * "message":"type must be .."}. */
    const json_t *places[] = { json_object_get(error, "message"),
                               json_object_get(root, "message"),
                               error,
                               json_object_get(first, "msg"),
                               detail,
                               json_object_get(root, "errors") };
    for (size_t i = 0; i < ARRAY_LENGTH(places); i++) {
        if (json_is_string(places[i]) && json_string_length(places[i]) > 0) {
            return places[i];
        }
    }
    return NULL;
}

void
kit_reason(const struct http_response *response, char *out, size_t size)
{
    CLEANUP(kit_json_free) json_t *root = kit_json(response);
    const char *text = response->body;
    size_t i = 0;
    kit_text(reason_in(root), out, size);
    if (out[0] != '\0') {
        return;
    }
    for (; i < response->body_length && i + 1 < size; i++) {
        out[i] = (char)((unsigned char)text[i] >= 0x80 ? '?' : printable(text[i]));
    }
    out[i] = '\0';
    if (i == 0) {
        snprintf(out, size, "no reason given");
    }
}

bool
kit_escape(char *out, size_t size, const char *text)
{
    static const char plain[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/";
    size_t used = strlen(out);
    for (; *text != '\0'; text++) {
        bool bare = strchr(plain, *text) != NULL;
        int n = bare ? snprintf(out + used, size - used, "%c", *text)
                     : snprintf(out + used, size - used, "%%%02X", (unsigned char)*text);
        used += (size_t)n;
        if (used >= size) {
            return false;
        }
    }
    return true;
}
