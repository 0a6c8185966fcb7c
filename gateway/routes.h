#pragma once
/*
 * routes — which handler serves which path, of all faces.
 *
 * A face is a way to talk to Drawbar (native, OpenAI, ...): a file in faces/ with a table of
 * routes. A pattern is matched segment by segment; `{}` takes any one segment, as it stands in the
 * path. HEAD is served by the handler of GET. A path that exists under another method is 405 with
 * Allow.
 */
#include "gateway/gate.h"

enum { ROUTE_SEGMENTS = 2 };

struct route_call {
    struct gate *gate;
    struct http_exchange *exchange;
    const char *tenant;                    /* whose jobs these are; lives for good */
    struct slice segments[ROUTE_SEGMENTS]; /* what `{}` took, in order; borrowed for the call */
};

struct route {
    enum http_method method;
    const char *pattern; /* "/v1/jobs/{}" */
    void (*serve)(const struct route_call *call);
};

struct face {
    const char *name;
    const struct route *routes;
    size_t n_routes;
};

/* Serves a request: http_server_config.on_request with a struct gate as context. */
void routes_serve(void *gate, struct http_exchange *exchange);

/* The segment as a job id. False: answered 404, the exchange is over. */
bool route_job_id(const struct route_call *call, struct job_id *out);
/* A query argument as text; "" if it is absent. False: answered 400. */
bool route_text(const struct route_call *call, const char *name, char *out, size_t size);
/* A query argument as a number. Absent: *out is left alone. False: answered 400. */
bool route_number(const struct route_call *call, const char *name, uint32_t max, uint32_t *out);
