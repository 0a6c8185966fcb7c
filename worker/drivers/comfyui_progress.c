#include "worker/drivers/comfyui_progress.h"
#include "common/scope.h"
#include "worker/drivers/workflow.h"
#include <stdio.h>
#include <string.h>

enum { STEPS_MAX = 10000 /* of a KSampler */ };

/* -- which bars count -- */

/* Steps that the node is to do. */
static double
weight_of(const json_t *inputs, uint32_t steps)
{
    json_int_t own = json_integer_value(json_object_get(inputs, "steps"));
    if (own >= 1 && own <= STEPS_MAX) {
        return (double)own;
    }
    return steps;
}

static bool
is_sampler(const json_t *node)
{
    const json_t *inputs = json_object_get(node, "inputs");
    const char *class_type = json_string_value(json_object_get(node, "class_type"));
    return json_object_get(inputs, "latent_image") != NULL ||
           (workflow_takes_steps(node) && class_type != NULL &&
            strcasestr(class_type, "sampler") != NULL);
}

static void
add_bar(struct comfyui_progress *self, const char *node, double weight)
{
    if (self->n_bars < LIMIT_COMFYUI_SAMPLERS && strlen(node) < COMFYUI_ID) {
        struct comfyui_bar *bar = &self->bars[self->n_bars++];
        *bar = (struct comfyui_bar){ .weight = weight };
        snprintf(bar->node, sizeof bar->node, "%s", node);
    }
}

void
comfyui_progress_begin(struct comfyui_progress *self, const json_t *workflow, uint32_t steps)
{
    const char *id = NULL;
    json_t *node = NULL;
    *self = (struct comfyui_progress){ .steps = steps };
    json_object_foreach((json_t *)workflow, id, node)
    {
        const json_t *inputs = json_object_get(node, "inputs");
        if (is_sampler(node)) {
            add_bar(self, id, weight_of(inputs, steps));
        } else if (json_object_get(inputs, "upscale_model") != NULL) {
            add_bar(self, id, steps / 4.0);
        }
    }
    bool none = self->n_bars == 0;
    json_object_foreach((json_t *)workflow, id, node)
    {
        if (none && workflow_takes_steps(node)) {
            add_bar(self, id, weight_of(json_object_get(node, "inputs"), steps));
        }
    }
}

bool
comfyui_progress_name(struct comfyui_progress *self, const char *id)
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    if (id == NULL || id[0] == '\0' || strlen(id) >= sizeof self->id ||
        strspn(id, plain) != strlen(id)) {
        return false;
    }
    snprintf(self->id, sizeof self->id, "%s", id);
    return true;
}

/* -- what is heard -- */

static void
note(uint64_t *sum, const void *bytes, size_t length)
{
    const unsigned char *at = bytes;
    for (size_t i = 0; i < length; i++) {
        *sum = (*sum ^ at[i]) * 1099511628211U;
    }
}

static struct comfyui_bar *
find_bar(struct comfyui_progress *self, const char *node)
{
    for (uint32_t i = 0; node != NULL && i < self->n_bars; i++) {
        if (strcmp(self->bars[i].node, node) == 0) {
            return &self->bars[i];
        }
    }
    return NULL;
}

/* The first sampler that has not begun becomes this node. */
static struct comfyui_bar *
adopt(struct comfyui_progress *self, const char *node, double max)
{
    for (uint32_t i = 0; node != NULL && strlen(node) < COMFYUI_ID && i < self->n_bars; i++) {
        struct comfyui_bar *bar = &self->bars[i];
        if (!(bar->part > 0) && max == self->steps && self->steps > 1) {
            snprintf(bar->node, sizeof bar->node, "%s", node);
            return bar;
        }
    }
    return NULL;
}

static void
sum_up(struct comfyui_progress *self)
{
    double done = 0;
    double all = 0;
    for (uint32_t i = 0; i < self->n_bars; i++) {
        done += self->bars[i].weight * self->bars[i].part;
        all += self->bars[i].weight;
    }
    double part = all > 0 ? done / all : 0;
    self->part = part > self->part ? part : self->part;
}

/* One node's bar: {"value", "max"}, and in a progress_state more. */
static void
hear_bar(struct comfyui_progress *self, const char *node, const json_t *told)
{
    double value = json_number_value(json_object_get(told, "value"));
    double max = json_number_value(json_object_get(told, "max"));
    const char *state = json_string_value(json_object_get(told, "state"));
    const char *shown = json_string_value(json_object_get(told, "display_node_id"));
    bool finished = state != NULL && strcmp(state, "finished") == 0;
    struct comfyui_bar *bar = find_bar(self, node);
    bar = bar != NULL ? bar : find_bar(self, shown);
    bar = bar != NULL ? bar : adopt(self, node, max);
    if (bar == NULL || !(value >= 0) || !(max > 0)) {
        return;
    }
    double part = finished || value >= max ? 1 : value / max;
    bar->part = part > bar->part ? part : bar->part;
    sum_up(self);
}

static void
note_bar(uint64_t *sum, const char *node, const json_t *told)
{
    char numbers[64];
    const char *state = json_string_value(json_object_get(told, "state"));
    note(sum, node, strlen(node));
    snprintf(numbers, sizeof numbers, "%.9g of %.9g",
             json_number_value(json_object_get(told, "value")),
             json_number_value(json_object_get(told, "max")));
    note(sum, numbers, strlen(numbers));
    note(sum, state == NULL ? "" : state, state == NULL ? 0 : strlen(state));
}

/* True: it is another one than last time. */
static bool
is_news(uint64_t *last, uint64_t sum)
{
    bool news = *last != sum;
    *last = sum;
    return news;
}

static enum comfyui_news
hear_state(struct comfyui_progress *self, const json_t *nodes)
{
    uint64_t sum = 14695981039346656037U;
    const char *node = NULL;
    json_t *told = NULL;
    json_object_foreach((json_t *)nodes, node, told)
    {
        hear_bar(self, node, told);
        note_bar(&sum, node, told);
    }
    return is_news(&self->state_sum, sum) ? COMFYUI_WORK : COMFYUI_NOTHING;
}

static enum comfyui_news
hear_progress(struct comfyui_progress *self, const json_t *data)
{
    uint64_t sum = 14695981039346656037U;
    const char *node = json_string_value(json_object_get(data, "node"));
    if (node == NULL) {
        return COMFYUI_NOTHING;
    }
    hear_bar(self, node, data);
    note_bar(&sum, node, data);
    return is_news(&self->bar_sum, sum) ? COMFYUI_WORK : COMFYUI_NOTHING;
}

static enum comfyui_news
hear_executing(struct comfyui_progress *self, const json_t *data)
{
    const json_t *node = json_object_get(data, "node");
    const char *name = json_string_value(node);
    if (json_is_null(node)) {
        return COMFYUI_OVER;
    }
    if (name == NULL || strcmp(name, self->node) == 0 || strlen(name) >= COMFYUI_ID) {
        return COMFYUI_NOTHING;
    }
    snprintf(self->node, sizeof self->node, "%s", name);
    return COMFYUI_WORK;
}

/* Nodes whose outputs are kept from an earlier prompt need not be drawn. */
static enum comfyui_news
hear_cached(struct comfyui_progress *self, const json_t *nodes)
{
    size_t i = 0;
    const json_t *node = NULL;
    json_array_foreach(nodes, i, node)
    {
        struct comfyui_bar *bar = find_bar(self, json_string_value(node));
        if (bar != NULL) {
            bar->part = 1;
            sum_up(self);
        }
    }
    return COMFYUI_BEGUN;
}

static void
free_json(json_t **json_p)
{
    json_decref(*json_p);
}

enum comfyui_news
comfyui_progress_hear(struct comfyui_progress *self, const char *text, size_t length)
{
    CLEANUP(free_json) json_t *root = json_loadb(text, length, 0, NULL);
    const char *type = json_string_value(json_object_get(root, "type"));
    const json_t *data = json_object_get(root, "data");
    const char *id = json_string_value(json_object_get(data, "prompt_id"));
    if (type == NULL || id == NULL || self->id[0] == '\0' || strcmp(id, self->id) != 0) {
        return COMFYUI_NOTHING;
    }
    if (strcmp(type, "progress") == 0) {
        return hear_progress(self, data);
    }
    if (strcmp(type, "progress_state") == 0) {
        return hear_state(self, json_object_get(data, "nodes"));
    }
    if (strcmp(type, "executing") == 0) {
        return hear_executing(self, data);
    }
    if (strcmp(type, "execution_cached") == 0) {
        return hear_cached(self, json_object_get(data, "nodes"));
    }
    return strcmp(type, "execution_start") == 0 ? COMFYUI_BEGUN : COMFYUI_NOTHING;
}
