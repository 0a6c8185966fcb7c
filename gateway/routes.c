#include "gateway/routes.h"
#include "common/scope.h"
#include "gateway/faces/native.h"
#include "gateway/problem.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Everybody is one tenant until there are keys: this is the place that will ask them. */
#define TENANT_DEFAULT "default"

static const struct face *const faces[] = { &native_face };

static const char *const method_names[HTTP_METHOD_COUNT] = {
    "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH",
};

static bool
pattern_matches(const char *pattern, const char *path, struct slice *segments)
{
    size_t n = 0;
    while (*pattern != '\0' && *path != '\0') {
        if (pattern[0] == '{') {
            size_t length = strcspn(path, "/");
            if (length == 0) {
                return false;
            }
            assert(n < ROUTE_SEGMENTS);
            segments[n++] = (struct slice){ path, (uint32_t)length };
            path += length;
            pattern += strlen("{}");
        } else if (*pattern++ != *path++) {
            return false;
        }
    }
    return *pattern == '\0' && *path == '\0';
}

/* "GET, HEAD, DELETE": what the path takes; empty: there is no such path. */
static void
methods_list(const char *path, char *out, size_t size)
{
    struct slice segments[ROUTE_SEGMENTS];
    size_t used = 0;
    out[0] = '\0';
    for (size_t f = 0; f < ARRAY_LENGTH(faces); f++) {
        for (size_t i = 0; i < faces[f]->n_routes; i++) {
            const struct route *route = &faces[f]->routes[i];
            if (pattern_matches(route->pattern, path, segments) && used < size) {
                used += (size_t)snprintf(out + used, size - used, "%s%s%s", used > 0 ? ", " : "",
                                         method_names[route->method],
                                         route->method == HTTP_GET ? ", HEAD" : "");
            }
        }
    }
}

static const struct route *
route_find(enum http_method method, const char *path, struct slice *segments)
{
    for (size_t f = 0; f < ARRAY_LENGTH(faces); f++) {
        for (size_t i = 0; i < faces[f]->n_routes; i++) {
            const struct route *route = &faces[f]->routes[i];
            if (route->method == method && pattern_matches(route->pattern, path, segments)) {
                return route;
            }
        }
    }
    return NULL;
}

void
routes_serve(void *gate, struct http_exchange *exchange)
{
    struct route_call call = { .gate = gate, .exchange = exchange, .tenant = TENANT_DEFAULT };
    const char *path = http_path(exchange);
    enum http_method method = http_method(exchange);
    const struct route *route =
        route_find(method == HTTP_HEAD ? HTTP_GET : method, path, call.segments);
    http_add_header(exchange, "X-Content-Type-Options", "nosniff");
    if (route != NULL) {
        route->serve(&call);
        return;
    }
    char allow[64];
    methods_list(path, allow, sizeof allow);
    if (allow[0] == '\0') {
        problem_send_detail(exchange, PROBLEM_NO_ROUTE,
                            "There is nothing at this path; jobs are "
                            "at /v1/jobs");
        return;
    }
    http_add_header(exchange, "Allow", allow);
    problem_send_detail(exchange, PROBLEM_METHOD, "%s is not possible here, but: %s",
                        method_names[method], allow);
}

bool
route_job_id(const struct route_call *call, struct job_id *out)
{
    if (!job_id_parse(call->segments[0].bytes, call->segments[0].length, out)) {
        problem_send_detail(call->exchange, PROBLEM_UNKNOWN, "There is no such job");
        return false;
    }
    return true;
}

/* True if the query has the argument, whatever its value. */
static bool
query_has(const char *query, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = query; at != NULL; at = strchr(at, '&')) {
        at += *at == '&';
        if (strncmp(at, name, length) == 0 && memchr("=&", at[length], 3) != NULL) {
            return true;
        }
    }
    return false;
}

bool
route_text(const struct route_call *call, const char *name, char *out, size_t size)
{
    if (http_query_get(call->exchange, name, out, size) ||
        !query_has(http_query(call->exchange), name)) {
        return true;
    }
    problem_send_detail(call->exchange, PROBLEM_ARGUMENT, "the query argument %s is not readable",
                        name);
    return false;
}

bool
route_number(const struct route_call *call, const char *name, uint32_t max, uint32_t *out)
{
    char text[16];
    char *end = NULL;
    if (!query_has(http_query(call->exchange), name)) {
        return true;
    }
    (void)http_query_get(call->exchange, name, text, sizeof text); /* "" if it does not fit */
    unsigned long number = strtoul(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || number > max) {
        problem_send_detail(call->exchange, PROBLEM_ARGUMENT,
                            "%s must be a whole number from 0 to %u", name, max);
        return false;
    }
    *out = (uint32_t)number;
    return true;
}
