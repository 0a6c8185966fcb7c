#include "cli/server.h"
#include "common/clock.h"
#include "common/scope.h"
#include <curl/curl.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BODY_MAX = LIMIT_PICTURE_BYTES + LIMIT_FRAME_BYTES };

struct server {
    CURLM *multi;
    CURL *easy;
    char address[LIMIT_URL];
    bool loopback;
    int (*on_tick)(void *context);
    void *context;
    /* of the question under way */
    const struct question *question;
    struct answer *answer;
    int64_t heard_ms;
    int rc; /* what ended it from inside */
};

void
answer_clear(struct answer *answer)
{
    free(answer->body);
    *answer = (struct answer){ 0 };
}

static bool
address_is_loopback(const char *address)
{
    static const char *const hosts[] = { "http://127.", "http://localhost", "http://[::1]" };
    for (size_t i = 0; i < ARRAY_LENGTH(hosts); i++) {
        if (strncasecmp(address, hosts[i], strlen(hosts[i])) == 0) {
            return true;
        }
    }
    return false;
}

int
server_new(struct server **out, const char *address)
{
    CLEANUP(server_destroy) struct server *self = calloc(1, sizeof *self);
    bool http = strncasecmp(address, "http://", 7) == 0 || strncasecmp(address, "https://", 8) == 0;
    if (self == NULL) {
        return -ENOMEM;
    }
    int length =
        snprintf(self->address, sizeof self->address, "%s%s", http ? "" : "http://", address);
    if (length < 0 || (size_t)length >= sizeof self->address ||
        (!http && (address[0] == '\0' || strstr(address, "://") != NULL)) ||
        strpbrk(address, " \"<>\\^`{|}?#") != NULL) {
        return -EINVAL;
    }
    while (length > 0 && self->address[length - 1] == '/') {
        self->address[--length] = '\0';
    }
    self->loopback = address_is_loopback(self->address);
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        return -ENOMEM;
    }
    self->multi = curl_multi_init();
    self->easy = curl_easy_init();
    if (self->multi == NULL || self->easy == NULL) {
        return -ENOMEM;
    }
    *out = self;
    self = NULL;
    return 0;
}

void
server_destroy(struct server **self_p)
{
    struct server *self = *self_p;
    if (self != NULL) {
        curl_easy_cleanup(self->easy);
        (void)curl_multi_cleanup(self->multi);
        free(self);
        *self_p = NULL;
    }
}

const char *
server_address(const struct server *self)
{
    return self->address;
}

void
server_on_tick(struct server *self, int (*on_tick)(void *context), void *context)
{
    self->on_tick = on_tick;
    self->context = context;
}

static size_t
on_body(char *bytes, size_t size, size_t n, void *context)
{
    struct server *self = context;
    struct answer *answer = self->answer;
    size_t length = size * n;
    long status = 0;
    (void)curl_easy_getinfo(self->easy, CURLINFO_RESPONSE_CODE, &status);
    self->heard_ms = clock_mono_ms();
    if (self->question->on_bytes != NULL && status == 200) {
        self->rc = self->question->on_bytes(self->question->context, bytes, length);
        return self->rc == 0 ? length : 0;
    }
    if (answer->length + length > BODY_MAX) {
        self->rc = -EMSGSIZE;
        return 0;
    }
    char *body = realloc(answer->body, answer->length + length + 1);
    if (body == NULL) {
        abort();
    }
    memcpy(body + answer->length, bytes, length);
    answer->body = body;
    answer->length += length;
    body[answer->length] = '\0';
    return length;
}

static struct curl_slist *
headers_new(const struct question *question)
{
    struct curl_slist *list =
        curl_slist_append(NULL, "Expect:"); /* no round trip before the body */
    if (question->body != NULL) {
        list = curl_slist_append(list, "Content-Type: application/json");
    }
    for (size_t i = 0; i < ARRAY_LENGTH(question->headers) && question->headers[i] != NULL; i++) {
        list = curl_slist_append(list, question->headers[i]);
    }
    return list;
}

static void
handle_set(struct server *self, const struct question *question, const char *url)
{
    CURL *easy = self->easy;
    curl_easy_reset(easy); /* the connection stays */
    (void)curl_easy_setopt(easy, CURLOPT_URL, url);
    (void)curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, question->method);
    (void)curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    (void)curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(easy, CURLOPT_USERAGENT, "drawbar/" DRAWBAR_VERSION);
    (void)curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)LIMIT_SERVER_CONNECT_MS);
    (void)curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)question->limit_ms);
    (void)curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, self->answer->trouble);
    (void)curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    (void)curl_easy_setopt(easy, CURLOPT_WRITEDATA, self);
    if (self->loopback) {
        (void)curl_easy_setopt(easy, CURLOPT_NOPROXY, "*");
    }
    if (question->body != NULL) {
        (void)curl_easy_setopt(easy, CURLOPT_POSTFIELDS, question->body);
        (void)curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, (long)strlen(question->body));
    }
}

/* Turns libcurl until the question is over. 0 and *result, or what ended it. */
static int
turn(struct server *self, CURLcode *result)
{
    const struct question *question = self->question;
    for (;;) {
        int running = 0;
        int left = 0;
        (void)curl_multi_perform(self->multi, &running);
        const CURLMsg *message = curl_multi_info_read(self->multi, &left);
        if (message != NULL && message->msg == CURLMSG_DONE) {
            *result = message->data.result;
            return 0;
        }
        (void)curl_multi_poll(self->multi, NULL, 0, LIMIT_TICK_MS, NULL);
        int rc = self->on_tick != NULL ? self->on_tick(self->context) : 0;
        if (rc != 0) {
            return rc;
        }
        if (question->limit_ms == 0 && clock_mono_ms() - self->heard_ms > question->quiet_ms) {
            (void)snprintf(self->answer->trouble, sizeof self->answer->trouble, "it fell silent");
            return -ETIMEDOUT;
        }
    }
}

static int
outcome(struct server *self, CURLcode result)
{
    struct answer *answer = self->answer;
    long status = 0;
    const char *type = NULL;
    (void)curl_easy_getinfo(self->easy, CURLINFO_RESPONSE_CODE, &status);
    (void)curl_easy_getinfo(self->easy, CURLINFO_CONTENT_TYPE, &type);
    answer->status = (int)status;
    (void)snprintf(answer->type, sizeof answer->type, "%s", type != NULL ? type : "");
    if (result == CURLE_OK) {
        return 0;
    }
    if (answer->trouble[0] == '\0') {
        (void)snprintf(answer->trouble, sizeof answer->trouble, "%s", curl_easy_strerror(result));
    }
    if (self->rc != 0) {
        return self->rc;
    }
    double connected_s = 0;
    (void)curl_easy_getinfo(self->easy, CURLINFO_PRETRANSFER_TIME, &connected_s);
    if (connected_s <= 0) {
        return -ECONNREFUSED; /* no name, no route, no listener, no TLS */
    }
    return result == CURLE_OPERATION_TIMEDOUT ? -ETIMEDOUT : -ECONNRESET;
}

int
server_ask(struct server *self, const struct question *question, struct answer *answer)
{
    char url[2 * LIMIT_URL];
    CURLcode result = CURLE_OK;
    answer_clear(answer);
    (void)snprintf(url, sizeof url, "%s%s", self->address, question->path);
    self->question = question;
    self->answer = answer;
    self->rc = 0;
    self->heard_ms = clock_mono_ms();
    handle_set(self, question, url);
    struct curl_slist *headers = headers_new(question);
    (void)curl_easy_setopt(self->easy, CURLOPT_HTTPHEADER, headers);
    (void)curl_multi_add_handle(self->multi, self->easy);
    int rc = turn(self, &result);
    rc = rc ? rc : outcome(self, result);
    (void)curl_multi_remove_handle(self->multi, self->easy);
    (void)curl_easy_setopt(self->easy, CURLOPT_ERRORBUFFER, NULL);
    curl_slist_free_all(headers);
    if (answer->body == NULL) {
        answer->body = calloc(1, 1);
    }
    if (answer->body == NULL) {
        abort();
    }
    return rc;
}

int
server_pause(struct server *self, int64_t pause_ms)
{
    int64_t end_ms = clock_mono_ms() + pause_ms;
    for (;;) {
        int64_t left_ms = end_ms - clock_mono_ms();
        if (left_ms <= 0) {
            return 0;
        }
        (void)poll(NULL, 0, left_ms < LIMIT_TICK_MS ? (int)left_ms : LIMIT_TICK_MS);
        int rc = self->on_tick != NULL ? self->on_tick(self->context) : 0;
        if (rc != 0) {
            return rc;
        }
    }
}
