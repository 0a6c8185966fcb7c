#pragma once
/*
 * settings — what drawbar-gateway was told on its command line, checked.
 */
#include "common/config.h"
#include "common/limits.h"

enum { SETTINGS_HOST = 64 };

struct settings {
    struct config *config; /* owns the strings */
    struct config_common common;
    const char *redis_url, *listen, *uploads, *uploads_url, *artifacts;
    int64_t threads, linger_ms;
    bool insecure_plaintext;
    char host[SETTINGS_HOST], uploads_host[SETTINGS_HOST]; /* without brackets */
    uint16_t port, uploads_port;
};

/* Reads and checks the settings. 0, CONFIG_EXIT (--help, --version), or -EINVAL: printed. */
int settings_load(struct settings *self, int argc, char **argv);
void settings_destroy(struct settings *self); /* for CLEANUP on a struct settings */
/* Writes "http://HOST:PORT" that workers upload to: --uploads-url, or where the listener is. */
void settings_uploads_url(const struct settings *self, uint16_t port, char out[LIMIT_URL]);
/* Writes "HOST:PORT", with brackets if the host is an IPv6 address. */
void settings_address(const char *host, uint16_t port, char out[LIMIT_URL]);
