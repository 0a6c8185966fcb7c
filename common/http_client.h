#pragma once
/*
 * http_client — HTTP requests by libcurl's multi_socket on a reactor.
 *
 * One client per process; connections are kept and reused. Names are resolved by libcurl's threaded
 * resolver, so the loop never waits. No redirects are followed. No proxy is used, whatever the
 * environment says: instances and gateways are addressed directly. A POST is sent once, whatever
 * happens to its connection; other requests may be sent again if a kept connection dies under them.
 */
#include "common/reactor.h"
#include <stddef.h>

struct http_client;
struct http_call; /* one request under way */

struct http_request {
    const char *method;       /* "GET", "POST", "PUT", "DELETE" */
    const char *url;          /* absolute; http only (https where libcurl has it) */
    const char *content_type; /* NULL: none */
    const char *headers[4];   /* further header lines "Name: value", NULL-terminated unless full */
    const void *body;         /* borrowed until the response callback */
    size_t body_length;
    int64_t limit_ms;    /* whole request; required */
    size_t response_max; /* bytes of response body; more fails the request with EMSGSIZE */
    /* NULL, or called with the bytes of a 2xx answer's body as they come, from the loop: it may
     * start and cancel calls, this one too. The response has no body then, and response_max bounds
     * what is not yet handed over. */
    void (*on_bytes)(void *context, const void *bytes, size_t length);
    int64_t quiet_ms; /* 0, or: nothing comes for so long (whole seconds) is ETIMEDOUT */
};

struct http_response {
    int status; /* 0: no response, see error */
    int error;  /* 0 or a positive errno: ECONNREFUSED, ETIMEDOUT, EMSGSIZE, ECONNRESET, EIO */
    const char *content_type; /* "" if none */
    const char *message;      /* for people: libcurl's words on an error, else "" */
    const void *body;
    size_t body_length;
};

/* The call is over and its handle dead; the response lives for this call of fn. fn may start and
 * cancel other calls, but not destroy the client. */
typedef void (*http_response_fn)(void *context, const struct http_response *response);

int http_client_new(struct http_client **out, struct reactor *reactor); /* 0 or -ENOMEM */
void http_client_destroy(
    struct http_client **self_p); /* unfinished calls are dropped, not called back */
/* True: http_client_start takes the URL. */
bool http_url_is_good(const char *url);
/* Starts a request; method, url and headers are copied. fn is called once, never from inside this
 * call, unless the call is cancelled. NULL: -ENOMEM or a bad URL. */
struct http_call *http_client_start(struct http_client *self, const struct http_request *request,
                                    http_response_fn fn, void *context);
/* Drops a request: its connection is closed and fn is not called. *call_p becomes NULL; NULL is
 * fine. */
void http_call_cancel(struct http_call **call_p);
