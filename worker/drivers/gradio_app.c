#include "worker/drivers/gradio_app.h"
#include "common/scope.h"
#include <assert.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_DEPTH = 6, OLDEST_VERSION = 4 };

static char problem[160];

void
gradio_app_clear(struct gradio_app *self)
{
    for (size_t i = 0; i < self->n_arguments; i++) {
        json_decref(self->arguments[i].value);
    }
    *self = (struct gradio_app){ 0 };
}

void
gradio_app_id(const json_t *id, char *out, size_t size)
{
    if (json_is_number(id)) {
        snprintf(out, size, "%.17g", json_number_value(id)); /* random: half of it would do */
    } else {
        kit_text(id, out, size);
    }
}

const char *
gradio_app_read_config(struct gradio_app *out, const json_t *config)
{
    const char *version = json_string_value(json_object_get(config, "version"));
    const char *prefix = json_string_value(json_object_get(config, "api_prefix"));
    prefix = prefix == NULL ? "" : prefix;
    if (version == NULL || !json_is_array(json_object_get(config, "dependencies"))) {
        return "/config is not that of a Gradio app";
    }
    if (strtol(version, NULL, 10) < OLDEST_VERSION) {
        snprintf(problem, sizeof problem, "Gradio %.20s is too old: 4 or later is driven", version);
        return problem;
    }
    if (strlen(prefix) >= sizeof out->prefix || (prefix[0] != '\0' && prefix[0] != '/') ||
        strspn(prefix, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_./") !=
            strlen(prefix)) {
        return "/config has a strange api_prefix";
    }
    snprintf(out->prefix, sizeof out->prefix, "%s", prefix);
    gradio_app_id(json_object_get(config, "app_id"), out->app_id, sizeof out->app_id);
    return NULL;
}

/* -- the function -- */

static enum gradio_meaning
meaning_of(const char *name)
{
    /* The order counts: "negative prompt", "randomize seed". */
    static const struct {
        const char *word;
        enum gradio_meaning meaning;
    } words[] = {
        { "negative", GRADIO_NEGATIVE }, { "random", GRADIO_RANDOM }, { "prompt", GRADIO_PROMPT },
        { "seed", GRADIO_SEED },         { "width", GRADIO_WIDTH },   { "height", GRADIO_HEIGHT },
        { "step", GRADIO_STEPS },        { "guid", GRADIO_GUIDANCE }, { "cfg", GRADIO_GUIDANCE },
    };
    char low[64] = "";
    for (size_t i = 0; name != NULL && name[i] != '\0' && i + 1 < sizeof low; i++) {
        low[i] = (char)tolower((unsigned char)name[i]);
    }
    for (size_t i = 0; i < ARRAY_LENGTH(words); i++) {
        if (strstr(low, words[i].word) != NULL) {
            return words[i].meaning;
        }
    }
    return GRADIO_DEFAULT;
}

static const json_t *
component_by_id(const json_t *config, const json_t *id)
{
    size_t i = 0;
    const json_t *component = NULL;
    json_array_foreach(json_object_get(config, "components"), i, component)
    {
        if (json_equal(json_object_get(component, "id"), id)) {
            return component;
        }
    }
    return NULL;
}

/* Such an input is left out of /info and given as null. */
static bool
is_hidden(const json_t *component)
{
    const char *type = json_string_value(json_object_get(component, "type"));
    return (type != NULL && strcmp(type, "state") == 0) ||
           json_is_true(json_object_get(component, "skip_api"));
}

static void
add_argument(struct gradio_app *out, enum gradio_meaning meaning, json_t *value)
{
    bool known = meaning != GRADIO_DEFAULT;
    for (size_t i = 0; known && i < out->n_arguments; i++) {
        known = out->arguments[i].meaning != meaning; /* the first of a kind is the one */
    }
    out->arguments[out->n_arguments++] =
        (struct gradio_argument){ .meaning = known ? meaning : GRADIO_DEFAULT,
                                  .value =
                                      known || value == NULL ? json_null() : json_incref(value) };
}

/* Gives each input of the function its meaning. */
static const char *
read_arguments(struct gradio_app *out, const json_t *config, const json_t *inputs,
               const json_t *parameters)
{
    size_t next = 0;
    size_t i = 0;
    const json_t *id = NULL;
    if (json_array_size(inputs) > LIMIT_GRADIO_ARGUMENTS) {
        return "the function has too many arguments";
    }
    json_array_foreach(inputs, i, id)
    {
        if (is_hidden(component_by_id(config, id))) {
            add_argument(out, GRADIO_DEFAULT, NULL);
            continue;
        }
        const json_t *parameter = json_array_get(parameters, next++);
        const char *name = json_string_value(json_object_get(parameter, "parameter_name"));
        enum gradio_meaning meaning = meaning_of(name);
        if (meaning == GRADIO_DEFAULT) {
            meaning = meaning_of(json_string_value(json_object_get(parameter, "label")));
        }
        if (parameter == NULL) {
            return "/config and /info do not agree";
        }
        add_argument(out, meaning, json_object_get(parameter, "parameter_default"));
    }
    return NULL;
}

static bool
has_meaning(const struct gradio_app *self, enum gradio_meaning meaning)
{
    for (size_t i = 0; i < self->n_arguments; i++) {
        if (self->arguments[i].meaning == meaning) {
            return true;
        }
    }
    return false;
}

static const char *
check_arguments(const struct gradio_app *self)
{
    static const char *const names[GRADIO_NEEDED] = {
        [GRADIO_PROMPT] = "prompt", [GRADIO_WIDTH] = "width", [GRADIO_HEIGHT] = "height",
        [GRADIO_STEPS] = "steps",   [GRADIO_SEED] = "seed",
    };
    for (unsigned i = 0; i < GRADIO_NEEDED; i++) {
        if (!has_meaning(self, (enum gradio_meaning)i)) {
            snprintf(problem, sizeof problem, "the function %s has no argument for the %s",
                     self->name, names[i]);
            return problem;
        }
    }
    return NULL;
}

static bool
returns_picture(const json_t *function)
{
    size_t i = 0;
    const json_t *item = NULL;
    json_array_foreach(json_object_get(function, "returns"), i, item)
    {
        const char *component = json_string_value(json_object_get(item, "component"));
        if (component != NULL &&
            (strcasecmp(component, "image") == 0 || strcasecmp(component, "imageslider") == 0 ||
             strcasecmp(component, "gallery") == 0)) {
            return true;
        }
    }
    return false;
}

static bool
takes_prompt(const json_t *function)
{
    size_t i = 0;
    const json_t *item = NULL;
    json_array_foreach(json_object_get(function, "parameters"), i, item)
    {
        if (meaning_of(json_string_value(json_object_get(item, "parameter_name"))) ==
                GRADIO_PROMPT ||
            meaning_of(json_string_value(json_object_get(item, "label"))) == GRADIO_PROMPT) {
            return true;
        }
    }
    return false;
}

/* The function's name in /info, with its '/'. */
static const char *
choose(struct gradio_app *out, const json_t *functions, const char *endpoint)
{
    const char *name = NULL;
    json_t *function = NULL;
    uint32_t n = 0;
    const char *asked = endpoint[0] == '/' ? endpoint + 1 : endpoint;
    json_object_foreach((json_t *)functions, name, function)
    {
        const char *bare = name[0] == '/' ? name + 1 : name;
        bool fits = asked[0] != '\0' ? strcmp(bare, asked) == 0
                                     : takes_prompt(function) && returns_picture(function);
        if (fits && strlen(name) < sizeof out->name) {
            snprintf(out->name, sizeof out->name, "%s", name);
            n++;
        }
    }
    if (n == 1) {
        return NULL;
    }
    snprintf(problem, sizeof problem,
             n == 0 && asked[0] != '\0' ? "the app has no function %s"
             : n == 0 ? "the app has no function that takes a prompt and returns an image%.0s"
                      : "several functions draw: name one by endpoint=%.0s",
             endpoint);
    return problem;
}

static const json_t *
dependency_by_name(const json_t *config, const char *name, json_int_t *fn_index)
{
    size_t i = 0;
    const json_t *item = NULL;
    json_array_foreach(json_object_get(config, "dependencies"), i, item)
    {
        const char *api_name = json_string_value(json_object_get(item, "api_name"));
        if (api_name != NULL && strcmp(api_name, name) == 0) {
            const json_t *id = json_object_get(item, "id");
            *fn_index = json_is_number(id) ? (json_int_t)json_number_value(id) : (json_int_t)i;
            return item;
        }
    }
    return NULL;
}

const char *
gradio_app_learn(struct gradio_app *out, const json_t *config, const json_t *info,
                 const char *endpoint)
{
    const json_t *functions = json_object_get(info, "named_endpoints");
    const char *wrong = choose(out, functions, endpoint);
    if (wrong != NULL) {
        return wrong;
    }
    const char *bare = out->name[0] == '/' ? out->name + 1 : out->name;
    const json_t *dependency = dependency_by_name(config, bare, &out->fn_index);
    if (dependency == NULL) {
        return "/config and /info do not agree";
    }
    out->generator =
        json_is_true(json_object_get(json_object_get(dependency, "types"), "generator"));
    wrong = read_arguments(out, config, json_object_get(dependency, "inputs"),
                           json_object_get(json_object_get(functions, out->name), "parameters"));
    return wrong != NULL ? wrong : check_arguments(out);
}

/* -- a call -- */

static json_t *
value_of(const struct gradio_argument *argument, const struct kit *kit, uint32_t steps)
{
    const struct kit_order *order = &kit->order;
    switch (argument->meaning) {
    case GRADIO_PROMPT:
        return json_incref(order->prompt);
    case GRADIO_NEGATIVE:
        return order->negative != NULL ? json_incref(order->negative) : json_string("");
    case GRADIO_WIDTH:
        return json_integer(order->width);
    case GRADIO_HEIGHT:
        return json_integer(order->height);
    case GRADIO_STEPS:
        return json_integer(steps);
    case GRADIO_SEED:
        return json_integer(kit_seed(kit));
    case GRADIO_RANDOM:
        return json_false();
    case GRADIO_GUIDANCE:
        return json_real(order->guidance);
    case GRADIO_DEFAULT:
        return json_incref(argument->value);
    case GRADIO_MEANING_COUNT:
        break;
    }
    assert(false);
    return NULL;
}

json_t *
gradio_app_data(const struct gradio_app *self, const struct kit *kit, uint32_t steps)
{
    if (kit->order.guidance > 0 && !has_meaning(self, GRADIO_GUIDANCE)) {
        return NULL;
    }
    json_t *data = json_array();
    for (size_t i = 0; i < self->n_arguments; i++) {
        json_array_append_new(data, value_of(&self->arguments[i], kit, steps));
    }
    return data;
}

/* NOLINTNEXTLINE(misc-no-recursion): bounded by FILE_DEPTH */
static const char *
file_in(const json_t *value, int depth)
{
    size_t i = 0;
    const char *key = NULL;
    json_t *child = NULL;
    const char *found = NULL;
    if (depth > FILE_DEPTH) {
        return NULL;
    }
    if (json_is_array(value)) {
        json_array_foreach(value, i, child)
        {
            found = found != NULL ? found : file_in(child, depth + 1);
        }
        return found;
    }
    found = json_string_value(json_object_get(value, "path"));
    if (found != NULL && found[0] != '\0') {
        return found;
    }
    found = NULL;
    json_object_foreach((json_t *)value, key, child)
    {
        found = found != NULL ? found : file_in(child, depth + 1);
    }
    return found;
}

const char *
gradio_app_file(const json_t *data)
{
    return file_in(data, 0);
}
