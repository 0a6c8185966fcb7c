#include "gateway/settings.h"
#include "common/reactor.h"
#include "common/redis_url.h"
#include "common/scope.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int
mistake(const char *flag, const char *value, const char *what)
{
    (void)fprintf(stderr, "drawbar-gateway: %s %s: %s\n", flag, value, what);
    return -EINVAL;
}

static bool
is_wildcard(const char *host)
{
    return strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0 || strcmp(host, "*") == 0;
}

/* "127.0.0.1:8080", "[::1]:8080" */
static int
address_split(const char *flag, const char *text, char host[SETTINGS_HOST], uint16_t *port)
{
    const char *colon = strrchr(text, ':');
    size_t length = colon != NULL ? (size_t)(colon - text) : 0;
    if (length >= 2 && text[0] == '[' && text[length - 1] == ']') {
        text++;
        length -= 2;
    } else if (colon != NULL && memchr(text, ':', length) != NULL) {
        length = 0; /* an IPv6 address without brackets */
    }
    char *end = NULL;
    unsigned long number = colon != NULL ? strtoul(colon + 1, &end, 10) : 0;
    if (length == 0 || length >= SETTINGS_HOST || colon[1] < '0' || colon[1] > '9' ||
        *end != '\0' || number > UINT16_MAX) {
        return mistake(flag, text,
                       "is no ADDRESS:PORT; write 127.0.0.1:8080 or [::1]:8080 (port 0: any)");
    }
    memcpy(host, text, length);
    host[length] = '\0';
    *port = (uint16_t)number;
    return 0;
}

static int
exposure_check(const struct settings *self, const char *flag, const char *host)
{
    if (host_is_loopback(host) || self->insecure_plaintext) {
        return 0;
    }
    return mistake(flag, host,
                   "is beyond this host, where anybody on the way reads along; bind 127.0.0.1 and "
                   "put a TLS proxy in front, or say --insecure-plaintext");
}

static int
uploads_url_check(const struct settings *self)
{
    if (self->uploads_url == NULL) {
        return is_wildcard(self->uploads_host)
                   ? mistake("--uploads", self->uploads,
                             "is every address: say with --uploads-url http://HOST:PORT where "
                             "workers reach it")
                   : 0;
    }
    const char *url = self->uploads_url;
    size_t length = strlen(url);
    if (strncmp(url, "http://", strlen("http://")) != 0 || length <= strlen("http://") ||
        length >= LIMIT_URL || url[length - 1] == '/') {
        return mistake("--uploads-url", url, "must be http://HOST:PORT without a path");
    }
    return 0;
}

/* The value is not printed: it may hold a password. */
static int
redis_check(const struct settings *self)
{
    struct redis_url url;
    const char *why = NULL;
    if (redis_url_parse(&url, self->redis_url, &why) != 0) {
        return mistake("--redis", "URL", why);
    }
    if (redis_url_is_loopback(&url) || self->insecure_plaintext) {
        return 0;
    }
    return mistake(
        "--redis", url.address,
        "is beyond this host, where anybody on the way reads along; put stunnel between, "
        "or say --insecure-plaintext");
}

static int
settings_check(struct settings *self)
{
    int rc = address_split("--listen", self->listen, self->host, &self->port);
    rc = rc ? rc
            : address_split("--uploads", self->uploads, self->uploads_host, &self->uploads_port);
    rc = rc ? rc : redis_check(self);
    rc = rc ? rc : exposure_check(self, "--listen", self->host);
    rc = rc ? rc : exposure_check(self, "--uploads", self->uploads_host);
    return rc ? rc : uploads_url_check(self);
}

int
settings_load(struct settings *self, int argc, char **argv)
{
    *self = (struct settings){ .redis_url = "redis://127.0.0.1:6379",
                               .listen = "127.0.0.1:8080",
                               .uploads = "127.0.0.1:8081",
                               .threads = 1,
                               .linger_ms = LIMIT_GATEWAY_LINGER_MS };
    const struct option options[] = {
        { "redis", OPTION_STRING, &self->redis_url, "URL", "Redis that all parts share", 0, 0,
          false },
        { "listen", OPTION_STRING, &self->listen, "ADDR:PORT", "where clients come in", 0, 0,
          false },
        { "uploads", OPTION_STRING, &self->uploads, "ADDR:PORT", "where workers upload pictures", 0,
          0, false },
        { "uploads-url", OPTION_STRING, &self->uploads_url, "URL",
          "how workers reach --uploads; default: http:// and its address", 0, 0, false },
        { "artifacts", OPTION_STRING, &self->artifacts, "DIR",
          "directory of the pictures; several gateways share one", 0, 0, true },
        { "threads", OPTION_INT, &self->threads, "N", "reactors that share the address", 1,
          LIMIT_GATEWAY_THREADS, false },
        { "linger-ms", OPTION_INT, &self->linger_ms, "MS",
          "after SIGTERM, how long clients are still let in while /readyz says 503: at least two "
          "looks of your load balancer",
          0, LIMIT_GATEWAY_LINGER_MAX_MS, false },
        { "insecure-plaintext", OPTION_BOOL, &self->insecure_plaintext, NULL,
          "allow addresses beyond this host without TLS", 0, 0, false },
    };
    const struct program program = { .name = "drawbar-gateway",
                                     .role = "gateway",
                                     .summary = "Takes generation requests over HTTP, keeps the "
                                                "pictures, tells clients how their jobs go.",
                                     .options = options,
                                     .n_options = ARRAY_LENGTH(options) };
    int rc = config_load(&self->config, &self->common, &program, argc, argv);
    return rc ? rc : settings_check(self);
}

void
settings_destroy(struct settings *self)
{
    config_destroy(&self->config);
}

void
settings_address(const char *host, uint16_t port, char out[LIMIT_URL])
{
    (void)snprintf(out, LIMIT_URL, strchr(host, ':') != NULL ? "[%s]:%u" : "%s:%u", host, port);
}

void
settings_uploads_url(const struct settings *self, uint16_t port, char out[LIMIT_URL])
{
    char address[LIMIT_URL];
    if (self->uploads_url != NULL) {
        (void)snprintf(out, LIMIT_URL, "%s", self->uploads_url);
        return;
    }
    settings_address(self->uploads_host, port, address);
    (void)snprintf(out, LIMIT_URL, "http://%.*s", LIMIT_URL - 8, address);
}
