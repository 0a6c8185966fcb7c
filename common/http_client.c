#include "common/http_client.h"
#include "common/limits.h"
#include "common/scope.h"
#include <assert.h>
#include <curl/curl.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/queue.h>

struct http_call {
    LIST_ENTRY(http_call) link;
    TAILQ_ENTRY(http_call) news; /* while has_news */
    struct http_client *client;
    CURL *easy;
    struct curl_slist *headers;
    http_response_fn fn;
    void (*on_bytes)(void *context, const void *bytes, size_t length);
    void *context;
    char *body;
    size_t length, allocated, response_max;
    bool too_large;
    bool has_news; /* bytes for on_bytes */
    char message[CURL_ERROR_SIZE];
};

struct http_client {
    struct reactor *reactor;
    CURLM *multi;
    struct timer *timer; /* what curl asked for */
    LIST_HEAD(, http_call) calls;
    TAILQ_HEAD(, http_call) news; /* curl allows no change of a call inside its own callbacks */
    CURL *spare[LIMIT_HTTP_SPARE_HANDLES];
    uint32_t n_spare;
};

/* -- one call -- */

static CURL *
easy_take(struct http_client *self)
{
    return self->n_spare > 0 ? self->spare[--self->n_spare] : curl_easy_init();
}

static void
easy_give(struct http_client *self, CURL *easy)
{
    if (self->n_spare < LIMIT_HTTP_SPARE_HANDLES) {
        curl_easy_reset(easy); /* connections and resolved names stay with the multi handle */
        self->spare[self->n_spare++] = easy;
    } else {
        curl_easy_cleanup(easy);
    }
}

static void
call_free(struct http_call *call)
{
    LIST_REMOVE(call, link);
    if (call->has_news) {
        TAILQ_REMOVE(&call->client->news, call, news);
    }
    curl_multi_remove_handle(call->client->multi, call->easy);
    easy_give(call->client, call->easy);
    curl_slist_free_all(call->headers);
    free(call->body);
    free(call);
}

static bool
is_success(const struct http_call *call)
{
    long status = 0;
    curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
    return status >= 200 && status < 300;
}

static size_t
on_body(char *bytes, size_t size, size_t n, void *context)
{
    struct http_call *call = context;
    size_t length = size * n;
    if (length > call->response_max - call->length) {
        call->too_large = true;
        return CURL_WRITEFUNC_ERROR;
    }
    if (call->length + length > call->allocated) {
        curl_off_t announced = 0;
        curl_easy_getinfo(call->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &announced);
        size_t wanted = 2 * call->allocated + length;
        if (announced > 0 && (size_t)announced <= call->response_max &&
            (size_t)announced >= call->length + length) {
            wanted = (size_t)announced;
        }
        char *grown = realloc(call->body, wanted);
        if (grown == NULL) {
            return CURL_WRITEFUNC_ERROR;
        }
        call->body = grown;
        call->allocated = wanted;
    }
    memcpy(call->body + call->length, bytes, length);
    call->length += length;
    if (call->on_bytes != NULL && !call->has_news && is_success(call)) {
        call->has_news = true;
        TAILQ_INSERT_TAIL(&call->client->news, call, news);
    }
    return length;
}

bool
http_url_is_good(const char *url)
{
    char *scheme = NULL;
    CURLU *parsed = curl_url();
    bool good = parsed != NULL && curl_url_set(parsed, CURLUPART_URL, url, 0) == CURLUE_OK &&
                curl_url_get(parsed, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
                (strcasecmp(scheme, "http") == 0 || strcasecmp(scheme, "https") == 0);
    curl_free(scheme);
    curl_url_cleanup(parsed);
    return good;
}

static bool
add_line(struct http_call *call, const char *line)
{
    struct curl_slist *longer = curl_slist_append(call->headers, line);
    call->headers = longer != NULL ? longer : call->headers;
    return longer != NULL;
}

static bool
set_headers(struct http_call *call, const struct http_request *request)
{
    char type[256] = "Content-Type:"; /* nothing after the colon: curl adds none by itself */
    if (request->content_type != NULL) {
        int n = snprintf(type, sizeof type, "Content-Type: %s", request->content_type);
        if (n >= (int)sizeof type) {
            return false;
        }
    }
    /* Without Expect a body follows at once: the peers are near and nearly always take it. */
    bool ok = add_line(call, type) && add_line(call, "Expect:");
    for (size_t i = 0; i < ARRAY_LENGTH(request->headers) && request->headers[i] != NULL; i++) {
        ok = ok && add_line(call, request->headers[i]);
    }
    return ok;
}

static bool
set_request(struct http_call *call, const struct http_request *request)
{
    CURL *easy = call->easy;
    bool has_body = strcmp(request->method, "POST") == 0 || strcmp(request->method, "PUT") == 0;
    bool ok = curl_easy_setopt(easy, CURLOPT_URL, request->url) == CURLE_OK;
    if (has_body) { /* POSTFIELDS sends from memory without a read callback, and can be sent again
                     */
        curl_easy_setopt(easy, CURLOPT_POST, 1L);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request->body == NULL ? "" : request->body);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body_length);
    }
    /* What dies on a connection that was used before is sent again by libcurl, unasked; on a new
     * one it is not. A POST may have been the server's last: it must not be made twice. */
    curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, strcmp(request->method, "POST") == 0 ? 1L : 0L);
    if (strcmp(request->method, "HEAD") == 0) {
        curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
    } else {
        ok = ok && curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request->method) == CURLE_OK;
    }
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, call->headers);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS,
                     (long)(request->limit_ms > 0 ? request->limit_ms : 1));
    if (request->quiet_ms > 0) {
        curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
        curl_easy_setopt(easy, CURLOPT_LOW_SPEED_TIME, (long)((request->quiet_ms + 999) / 1000));
    }
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_TCP_NODELAY, 1L);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(easy, CURLOPT_PIPEWAIT, 0L);
    curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, (long)LIMIT_HTTP_READ_BUFFER);
    /* Our servers close what is idle for LIMIT_HTTP_IDLE_S: do not meet them at that moment. */
    curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, (long)LIMIT_HTTP_IDLE_S - 5);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, call);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, call->message);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, call);
    return ok;
}

struct http_call *
http_client_start(struct http_client *self, const struct http_request *request, http_response_fn fn,
                  void *context)
{
    assert(request->limit_ms > 0 && fn != NULL);
    if (!http_url_is_good(request->url)) {
        return NULL;
    }
    struct http_call *call = calloc(1, sizeof *call);
    if (call == NULL) {
        return NULL;
    }
    call->client = self;
    call->fn = fn;
    call->on_bytes = request->on_bytes;
    call->context = context;
    call->response_max = request->response_max;
    call->easy = easy_take(self);
    if (call->easy == NULL) {
        free(call);
        return NULL;
    }
    LIST_INSERT_HEAD(&self->calls, call, link);
    if (!set_headers(call, request) || !set_request(call, request) ||
        curl_multi_add_handle(self->multi, call->easy) != CURLM_OK) {
        call_free(call);
        return NULL;
    }
    return call;
}

void
http_call_cancel(struct http_call **call_p)
{
    if (*call_p != NULL) {
        call_free(*call_p);
        *call_p = NULL;
    }
}

/* -- curl's answer in our words -- */

static int
error_of(const struct http_call *call, CURLcode code)
{
    if (call->too_large) {
        return EMSGSIZE;
    }
    switch ((int)code) {
    case CURLE_COULDNT_CONNECT:
        return ECONNREFUSED;
    case CURLE_OPERATION_TIMEDOUT:
        return ETIMEDOUT;
    case CURLE_GOT_NOTHING:
    case CURLE_PARTIAL_FILE:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
        return ECONNRESET;
    default:
        return EIO;
    }
}

static void
finish(struct http_call *call, CURLcode code)
{
    long status = 0;
    char *type = NULL;
    struct http_response response = { .content_type = "", .message = "" };
    curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(call->easy, CURLINFO_CONTENT_TYPE, &type);
    if (code == CURLE_OK) {
        response.status = (int)status;
        response.content_type = type == NULL ? "" : type;
        response.body = call->length == 0 ? "" : call->body;
        response.body_length = call->length;
    } else {
        response.error = error_of(call, code);
        response.message = call->too_large            ? "the response is too large"
                           : call->message[0] != '\0' ? call->message
                                                      : curl_easy_strerror(code);
        response.body = "";
    }
    /* Removed first: fn may start a call that uses this very connection. */
    curl_multi_remove_handle(call->client->multi, call->easy);
    call->fn(call->context, &response);
    call_free(call);
}

/* Hands over what has come. The call may be gone after that, and others with it. */
static void
hand_over_all(struct http_client *self)
{
    struct http_call *call = NULL;
    while ((call = TAILQ_FIRST(&self->news)) != NULL) {
        char *bytes = call->body;
        size_t length = call->length;
        TAILQ_REMOVE(&self->news, call, news);
        call->has_news = false;
        call->body = NULL;
        call->length = call->allocated = 0;
        call->on_bytes(call->context, bytes, length);
        free(bytes);
    }
}

static void
finish_all(struct http_client *self)
{
    hand_over_all(self); /* before the ends of the same calls */
    int left = 0;
    CURLMsg *message = NULL;
    while ((message = curl_multi_info_read(self->multi, &left)) != NULL) {
        struct http_call *call = NULL;
        if (message->msg == CURLMSG_DONE) {
            CURLcode code = message->data.result; /* the message dies with the handle's removal */
            curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&call);
            finish(call, code);
        }
    }
}

/* -- curl on the reactor -- */

static void
on_ready(evutil_socket_t fd, short what, void *context)
{
    struct http_client *self = context;
    int running = 0;
    int ready = ((what & EV_READ) != 0 ? CURL_CSELECT_IN : 0) |
                ((what & EV_WRITE) != 0 ? CURL_CSELECT_OUT : 0);
    curl_multi_socket_action(self->multi, (curl_socket_t)fd, ready, &running);
    finish_all(self);
}

static void
on_timer(void *context)
{
    struct http_client *self = context;
    int running = 0;
    curl_multi_socket_action(self->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    finish_all(self);
}

static int
want_timer(CURLM *multi, long delay_ms, void *context)
{
    (void)multi;
    struct http_client *self = context;
    if (delay_ms < 0) {
        timer_stop(self->timer);
    } else {
        timer_in_ms(self->timer, delay_ms);
    }
    return 0;
}

/* Each socket has an event of its own, kept by curl beside the socket. */
static int
want_socket(CURL *easy, curl_socket_t fd, int what, void *context, void *socket_context)
{
    (void)easy;
    struct http_client *self = context;
    struct event *event = socket_context;
    if (what == CURL_POLL_REMOVE) {
        if (event != NULL) {
            event_free(event);
            curl_multi_assign(self->multi, fd, NULL);
        }
        return 0;
    }
    short flags = (short)(EV_PERSIST | ((what & CURL_POLL_IN) != 0 ? EV_READ : 0) |
                          ((what & CURL_POLL_OUT) != 0 ? EV_WRITE : 0));
    struct event_base *base = reactor_base(self->reactor);
    if (event == NULL) {
        event = event_new(base, fd, flags, on_ready, self);
        if (event == NULL) {
            return -1;
        }
        curl_multi_assign(self->multi, fd, event);
    } else {
        event_del(event);
        event_assign(event, base, fd, flags, on_ready, self);
    }
    return event_add(event, NULL);
}

int
http_client_new(struct http_client **out, struct reactor *reactor)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        return -ENOMEM;
    }
    struct http_client *self = calloc(1, sizeof *self);
    if (self == NULL) {
        curl_global_cleanup();
        return -ENOMEM;
    }
    self->reactor = reactor;
    TAILQ_INIT(&self->news);
    self->multi = curl_multi_init();
    int rc = self->multi == NULL ? -ENOMEM : timer_new(&self->timer, reactor, on_timer, self);
    if (rc != 0) {
        http_client_destroy(&self);
        return rc;
    }
    curl_multi_setopt(self->multi, CURLMOPT_SOCKETFUNCTION, want_socket);
    curl_multi_setopt(self->multi, CURLMOPT_SOCKETDATA, self);
    curl_multi_setopt(self->multi, CURLMOPT_TIMERFUNCTION, want_timer);
    curl_multi_setopt(self->multi, CURLMOPT_TIMERDATA, self);
    *out = self;
    return 0;
}

void
http_client_destroy(struct http_client **self_p)
{
    struct http_client *self = *self_p;
    if (self == NULL) {
        return;
    }
    struct http_call *call = LIST_FIRST(&self->calls);
    while (call != NULL) {
        struct http_call *next = LIST_NEXT(call, link);
        call_free(call);
        call = next;
    }
    while (self->n_spare > 0) {
        curl_easy_cleanup(self->spare[--self->n_spare]);
    }
    if (self->multi != NULL) {
        curl_multi_cleanup(
            self->multi); /* closes the kept connections: want_socket() frees events */
    }
    timer_destroy(&self->timer);
    curl_global_cleanup();
    free(self);
    *self_p = NULL;
}
