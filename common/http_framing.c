#include "common/http_framing.h"
#include "common/scope.h"
#include <event2/http_struct.h>
#include <event2/keyvalq_struct.h>
#include <string.h>
#include <strings.h>

struct framing {
    bool takes_body;
    int n_lengths, n_encodings, n_hosts;
};

/* RFC 9110 token: what a header name may be made of. */
static bool
is_token(const char *name)
{
    static const char others[] = "!#$%&'*+-.^_`|~";
    for (const char *c = name; *c != '\0'; c++) {
        bool alnum =
            (*c >= '0' && *c <= '9') || (*c >= 'A' && *c <= 'Z') || (*c >= 'a' && *c <= 'z');
        if (!alnum && strchr(others, *c) == NULL) {
            return false;
        }
    }
    return *name != '\0';
}

static bool
is_decimal(const char *value)
{
    return *value != '\0' && value[strspn(value, "0123456789")] == '\0';
}

static const char *
header_fault(struct framing *framing, const char *name, const char *value)
{
    if (!is_token(name)) {
        return "a header name is not a token";
    }
    if (strcasecmp(name, "Content-Length") == 0) {
        if (++framing->n_lengths > 1 || !is_decimal(value)) {
            return "Content-Length must be given once, in decimal digits";
        }
        if (!framing->takes_body && value[strspn(value, "0")] != '\0') {
            return "this method takes no body";
        }
    } else if (strcasecmp(name, "Transfer-Encoding") == 0) {
        if (++framing->n_encodings > 1 || strcasecmp(value, "chunked") != 0) {
            return "Transfer-Encoding must be given once and be chunked";
        }
        if (!framing->takes_body) {
            return "this method takes no body";
        }
    } else if (strcasecmp(name, "Host") == 0 && ++framing->n_hosts > 1) {
        return "Host must be given once";
    }
    return NULL;
}

static const char *
target_fault(struct evhttp_request *request)
{
    const char *target = evhttp_request_get_uri(request);
    const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(request);
    const char *path = uri == NULL ? NULL : evhttp_uri_get_path(uri);
    for (const char *c = target; *c != '\0'; c++) {
        if (*c <= ' ' || *c >= 0x7f || strchr("\"<>\\^`{|}", *c) != NULL) {
            return "the request target holds a character that must be percent-encoded";
        }
    }
    if (path == NULL || path[0] != '/' || strncmp(target, "//", 2) == 0) {
        return "the request target must be a path that starts with one '/'";
    }
    return evhttp_uri_get_fragment(uri) != NULL ? "the request target must have no fragment" : NULL;
}

const char *
http_framing_fault(struct evhttp_request *request)
{
    const int with_body = EVHTTP_REQ_POST | EVHTTP_REQ_PUT | EVHTTP_REQ_PATCH;
    struct framing framing = {
        .takes_body = ((int)evhttp_request_get_command(request) & with_body) != 0,
    };
    const struct evkeyvalq *headers = evhttp_request_get_input_headers(request);
    for (const struct evkeyval *h = headers->tqh_first; h != NULL; h = h->next.tqe_next) {
        const char *fault = header_fault(&framing, h->key, h->value);
        if (fault != NULL) {
            return fault;
        }
    }
    if (framing.n_lengths > 0 && framing.n_encodings > 0) {
        return "Content-Length and Transfer-Encoding exclude each other";
    }
    if (framing.n_hosts == 0 && request->major == 1 && request->minor >= 1) {
        return "Host is missing";
    }
    return target_fault(request);
}

const char *
http_phrase(int status)
{
    static const struct {
        int status;
        const char *phrase;
    } phrases[] = {
        { 200, "OK" },
        { 201, "Created" },
        { 202, "Accepted" },
        { 204, "No Content" },
        { 206, "Partial Content" },
        { 301, "Moved Permanently" },
        { 302, "Found" },
        { 303, "See Other" },
        { 304, "Not Modified" },
        { 307, "Temporary Redirect" },
        { 308, "Permanent Redirect" },
        { 400, "Bad Request" },
        { 401, "Unauthorized" },
        { 403, "Forbidden" },
        { 404, "Not Found" },
        { 405, "Method Not Allowed" },
        { 406, "Not Acceptable" },
        { 408, "Request Timeout" },
        { 409, "Conflict" },
        { 410, "Gone" },
        { 411, "Length Required" },
        { 412, "Precondition Failed" },
        { 413, "Content Too Large" },
        { 415, "Unsupported Media Type" },
        { 416, "Range Not Satisfiable" },
        { 422, "Unprocessable Content" },
        { 425, "Too Early" },
        { 428, "Precondition Required" },
        { 429, "Too Many Requests" },
        { 431, "Request Header Fields Too Large" },
        { 500, "Internal Server Error" },
        { 501, "Not Implemented" },
        { 502, "Bad Gateway" },
        { 503, "Service Unavailable" },
        { 504, "Gateway Timeout" },
        { 507, "Insufficient Storage" },
    };
    for (size_t i = 0; i < ARRAY_LENGTH(phrases); i++) {
        if (phrases[i].status == status) {
            return phrases[i].phrase;
        }
    }
    return status < 300 ? "Success" : status < 400 ? "Redirection" : "Error";
}

static int
hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static bool
decode(const char *from, size_t length, char plus, char *out, size_t size)
{
    size_t used = 0;
    for (size_t i = 0; i < length; i++) {
        char c = from[i];
        if (c == '+') {
            c = plus;
        } else if (c == '%') {
            int high = i + 2 < length ? hex_digit(from[i + 1]) : -1;
            int low = high < 0 ? -1 : hex_digit(from[i + 2]);
            if (low < 0) {
                return false;
            }
            c = (char)(high * 16 + low);
            i += 2;
        }
        if (c == '\0' || used + 1 >= size) {
            return false;
        }
        out[used++] = c;
    }
    out[used] = '\0';
    return true;
}

bool
http_decode(const char *from, size_t length, char *out, size_t size)
{
    return decode(from, length, '+', out, size);
}

bool
http_query_find(const char *query, const char *name, char *out, size_t size)
{
    size_t name_length = strlen(name);
    while (*query != '\0') {
        size_t length = strcspn(query, "&");
        size_t key = strcspn(query, "=&");
        if (key == name_length && strncmp(query, name, key) == 0) {
            const char *value = query + key + (key < length);
            if (decode(value, (size_t)(query + length - value), ' ', out, size)) {
                return true;
            }
            break; /* the first one counts; a second must not stand in for a bad one */
        }
        query += length + (query[length] == '&');
    }
    if (size > 0) {
        out[0] = '\0';
    }
    return false;
}
