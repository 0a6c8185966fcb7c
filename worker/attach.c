#include "worker/attach.h"
#include "common/scope.h"
#include <assert.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_EXTRA_STEPS = 4 };

enum key {
    KEY_DRIVER,
    KEY_URL,
    KEY_NAME,
    KEY_MODEL,
    KEY_USER,
    KEY_PASSWORD,
    KEY_KEY,
    KEY_ENDPOINT,
    KEY_WORKFLOW,
    KEY_EXTRA_STEPS,
    KEY_COUNT,
};

static const struct {
    const char *text;
    unsigned word; /* enum driver_word that the driver must take; 0: every driver's */
} keys[KEY_COUNT] = {
    [KEY_DRIVER] = { "driver=", 0 },
    [KEY_URL] = { "url=", 0 },
    [KEY_NAME] = { "name=", 0 },
    [KEY_MODEL] = { "model=", 0 },
    [KEY_USER] = { "user=", WORD_LOGIN },
    [KEY_PASSWORD] = { "password=", WORD_LOGIN },
    [KEY_KEY] = { "key=", WORD_KEY },
    [KEY_ENDPOINT] = { "endpoint=", WORD_ENDPOINT },
    [KEY_WORKFLOW] = { "workflow=", WORD_WORKFLOW },
    [KEY_EXTRA_STEPS] = { "extra_steps=", WORD_EXTRA_STEPS },
};

static char problem[512];

/* Names go into log lines, metrics and answers. */
static bool
is_name(const char *text, size_t length, size_t max)
{
    for (size_t i = 0; i < length; i++) {
        if (!isalnum((unsigned char)text[i]) && strchr("._:@/-", text[i]) == NULL) {
            return false;
        }
    }
    return length > 0 && length <= max;
}

static const char *
set_url(struct instance *self, const char *text, size_t length)
{
    while (length > 0 && text[length - 1] == '/') {
        length--;
    }
    bool http = length > 7 && strncmp(text, "http://", 7) == 0;
    bool https = length > 8 && strncmp(text, "https://", 8) == 0;
    if ((!http && !https) || length >= sizeof self->url || memchr(text, '?', length) != NULL ||
        memchr(text, '#', length) != NULL) {
        return "must be http://HOST:PORT, without a query";
    }
    if (memchr(text, '@', length) != NULL) {
        return "must hold no password: it is shown; give user= and password=";
    }
    snprintf(self->url, sizeof self->url, "%.*s", (int)length, text);
    return http_url_is_good(self->url) ? NULL : "must be http://HOST:PORT, without a query";
}

static const char *
set_name(char *out, size_t max, const char *text, size_t length)
{
    if (!is_name(text, length, max)) {
        return "must be 1 to 64 letters, digits or ._:@/-";
    }
    snprintf(out, max + 1, "%.*s", (int)length, text);
    return NULL;
}

static const char *
set_text(char *out, size_t size, const char *text, size_t length)
{
    if (length == 0 || length >= size) {
        snprintf(problem, sizeof problem, "must be 1 to %zu bytes", size - 1);
        return problem;
    }
    for (size_t i = 0; i < length; i++) {
        if ((unsigned char)text[i] < ' ') {
            return "must hold no control characters";
        }
    }
    snprintf(out, size, "%.*s", (int)length, text);
    return NULL;
}

static const char *
set_extra_steps(struct instance *self, const char *text, size_t length)
{
    if (length != 1 || text[0] < '0' || text[0] > '0' + MOST_EXTRA_STEPS) {
        return "must be 0 to 4";
    }
    self->words.extra_steps = (uint32_t)(text[0] - '0');
    return NULL;
}

static const char *
set_driver(struct instance *self, const char *text, size_t length)
{
    self->driver = driver_find(text, length);
    snprintf(problem, sizeof problem, "no such driver; there are: %s", driver_names());
    return self->driver == NULL ? problem : NULL;
}

static const char *
set_value(struct instance *self, enum key key, const char *text, size_t length)
{
    struct driver_words *words = &self->words;
    switch (key) {
    case KEY_DRIVER:
        return set_driver(self, text, length);
    case KEY_URL:
        return set_url(self, text, length);
    case KEY_NAME:
        return set_name(self->name, LIMIT_WORKER_NAME, text, length);
    case KEY_MODEL:
        self->model_set = true;
        return set_name(self->model, LIMIT_MODEL_NAME, text, length);
    case KEY_USER:
        return set_text(words->user, sizeof words->user, text, length);
    case KEY_PASSWORD:
        return set_text(words->password, sizeof words->password, text, length);
    case KEY_KEY:
        return set_text(words->key, sizeof words->key, text, length);
    case KEY_ENDPOINT:
        return set_text(words->endpoint, sizeof words->endpoint, text, length);
    case KEY_WORKFLOW:
        return set_text(words->workflow, sizeof words->workflow, text, length);
    case KEY_EXTRA_STEPS:
        return set_extra_steps(self, text, length);
    case KEY_COUNT:
        break;
    }
    assert(false);
    return NULL;
}

/* KEY_COUNT: none. */
static enum key
key_of(const char *word, size_t length)
{
    size_t key = 0;
    while (key < KEY_COUNT && (length < strlen(keys[key].text) ||
                               memcmp(word, keys[key].text, strlen(keys[key].text)) != 0)) {
        key++;
    }
    return (enum key)key;
}

static const char *
read_words(struct instance *self, const char *line, unsigned *seen)
{
    static char said[sizeof problem + 128];
    for (const char *at = line + strspn(line, " \t"); *at != '\0'; at += strspn(at, " \t")) {
        size_t length = strcspn(at, " \t");
        enum key key = key_of(at, length);
        const char *wrong =
            "is none of driver=, url=, name=, model=, user=, password=, key=, endpoint=, "
            "workflow=, extra_steps=";
        size_t shown = length;
        if (key != KEY_COUNT) {
            size_t skip = strlen(keys[key].text);
            bool secret = key == KEY_PASSWORD || key == KEY_KEY;
            shown = secret ? skip : length;
            wrong = set_value(self, key, at + skip, length - skip);
            *seen |= 1U << key;
        }
        if (wrong != NULL) {
            snprintf(said, sizeof said, "word '%.*s': %s", (int)(shown < 100 ? shown : 100), at,
                     wrong);
            return said;
        }
        at += length;
    }
    return NULL;
}

/* What the driver makes of its words, whatever their order was. */
static const char *
check_words(const struct instance *self, unsigned seen)
{
    for (unsigned key = 0; key < KEY_COUNT; key++) {
        if ((seen & (1U << key)) != 0 && (keys[key].word & ~self->driver->words) != 0) {
            snprintf(problem, sizeof problem, "the driver %s takes no %s", self->driver->name,
                     keys[key].text);
            return problem;
        }
    }
    bool user = (seen & (1U << KEY_USER)) != 0;
    if (user != ((seen & (1U << KEY_PASSWORD)) != 0)) {
        return "user= and password= come together";
    }
    if (user && (seen & (1U << KEY_KEY)) != 0) {
        return "give key=, or user= and password=, not both";
    }
    return self->driver->check == NULL ? NULL : self->driver->check(&self->words);
}

const char *
attach_read(struct instance *self, const char *line)
{
    unsigned seen = 0;
    const char *wrong = read_words(self, line, &seen);
    if (wrong != NULL) {
        return wrong;
    }
    if (self->driver == NULL) {
        snprintf(problem, sizeof problem, "word driver= is missing; there are: %s", driver_names());
        return problem;
    }
    if (self->url[0] == '\0') {
        return "word url= is missing, as in url=http://127.0.0.1:7861";
    }
    if (self->name[0] == '\0') {
        snprintf(self->name, sizeof self->name, "%.*s", LIMIT_WORKER_NAME,
                 strstr(self->url, "//") + 2);
    }
    return check_words(self, seen);
}

const char *
attach_read_driver(struct instance *self, const char *line)
{
    unsigned seen = 0;
    size_t length = strcspn(line, " \t");
    const char *wrong = set_driver(self, line, length);
    wrong = wrong != NULL ? wrong : read_words(self, line + length, &seen);
    if (wrong != NULL) {
        return wrong;
    }
    if ((seen & ((1U << KEY_DRIVER) | (1U << KEY_URL) | (1U << KEY_NAME))) != 0) {
        return "driver=, url= and name= are not for started instances";
    }
    return check_words(self, seen);
}
