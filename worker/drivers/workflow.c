#include "worker/drivers/workflow.h"
#include "common/scope.h"
#include <assert.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum place {
    PLACE_PROMPT,
    PLACE_SEED,
    PLACE_WIDTH,
    PLACE_HEIGHT,
    PLACE_STEPS,
    PLACE_NEGATIVE,
    PLACE_GUIDANCE,
    PLACE_COUNT,
};

enum { DEPTH = 16 }; /* of a graph; ComfyUI's have four levels */

static const char *const place_names[PLACE_COUNT] = {
    [PLACE_PROMPT] = "{prompt}",     [PLACE_SEED] = "{seed}",
    [PLACE_WIDTH] = "{width}",       [PLACE_HEIGHT] = "{height}",
    [PLACE_STEPS] = "{steps}",       [PLACE_NEGATIVE] = "{negative_prompt}",
    [PLACE_GUIDANCE] = "{guidance}",
};

/* PLACE_COUNT: it is none. */
static enum place
place_of(const json_t *value)
{
    size_t i = 0;
    while (i < PLACE_COUNT &&
           (!json_is_string(value) || strcmp(json_string_value(value), place_names[i]) != 0)) {
        i++;
    }
    return (enum place)i;
}

/* Bits of the places in the tree. */
/* NOLINTNEXTLINE(misc-no-recursion): bounded by DEPTH */
static unsigned
places_in(const json_t *value, int depth)
{
    unsigned places = 0;
    size_t i = 0;
    const char *key = NULL;
    json_t *child = NULL;
    if (depth > DEPTH) {
        return 0;
    }
    if (json_is_object(value)) {
        json_object_foreach((json_t *)value, key, child)
        {
            places |= places_in(child, depth + 1);
        }
    } else if (json_is_array(value)) {
        json_array_foreach(value, i, child)
        {
            places |= places_in(child, depth + 1);
        }
    } else if (place_of(value) != PLACE_COUNT) {
        places = 1U << place_of(value);
    }
    return places;
}

static json_t *
value_of(enum place place, const struct kit *kit)
{
    const struct kit_order *order = &kit->order;
    switch (place) {
    case PLACE_PROMPT:
        return json_incref(order->prompt);
    case PLACE_NEGATIVE:
        return order->negative != NULL ? json_incref(order->negative) : json_string("");
    case PLACE_SEED:
        return json_integer(kit_seed(kit));
    case PLACE_WIDTH:
        return json_integer(order->width);
    case PLACE_HEIGHT:
        return json_integer(order->height);
    case PLACE_STEPS:
        return json_integer(order->steps);
    case PLACE_GUIDANCE:
        return json_real(kit_guidance_from_one(kit));
    case PLACE_COUNT:
        break;
    }
    assert(false);
    return NULL;
}

/* NOLINTNEXTLINE(misc-no-recursion): bounded by DEPTH */
static void
fill(json_t *value, const struct kit *kit, int depth)
{
    size_t i = 0;
    const char *key = NULL;
    void *next = NULL;
    json_t *child = NULL;
    if (depth > DEPTH) {
        return;
    }
    if (json_is_object(value)) {
        json_object_foreach_safe(value, next, key, child)
        {
            if (place_of(child) != PLACE_COUNT) {
                json_object_set_new(value, key, value_of(place_of(child), kit));
            } else {
                fill(child, kit, depth + 1);
            }
        }
    } else if (json_is_array(value)) {
        json_array_foreach(value, i, child)
        {
            if (place_of(child) != PLACE_COUNT) {
                json_array_set_new(value, i, value_of(place_of(child), kit));
            } else {
                fill(child, kit, depth + 1);
            }
        }
    }
}

json_t *
workflow_fill(const json_t *workflow, const struct kit *kit)
{
    bool guided = (places_in(workflow, 0) & (1U << PLACE_GUIDANCE)) != 0;
    if (kit->order.guidance > 0 && !guided) {
        return NULL;
    }
    json_t *graph = json_deep_copy(workflow);
    if (graph == NULL) {
        abort();
    }
    fill(graph, kit, 0);
    return graph;
}

bool
workflow_takes_steps(const json_t *node)
{
    return (places_in(json_object_get(node, "inputs"), 0) & (1U << PLACE_STEPS)) != 0;
}

void
workflow_vary(json_t *graph, const char *node)
{
    char word[24];
    snprintf(word, sizeof word, "%08x%08x", randombytes_random(), randombytes_random());
    json_t *inputs = json_object_get(json_object_get(graph, node), "inputs");
    json_object_set_new(inputs, "drawbar_again", json_string(word));
}

const char *
workflow_model(const json_t *workflow)
{
    const char *id = NULL;
    json_t *node = NULL;
    json_object_foreach((json_t *)workflow, id, node)
    {
        const json_t *inputs = json_object_get(node, "inputs");
        const json_t *name = json_object_get(inputs, "unet_name");
        name = name != NULL ? name : json_object_get(inputs, "ckpt_name");
        if (json_is_string(name)) {
            return json_string_value(name);
        }
    }
    return NULL;
}

static void
free_text(char **text_p)
{
    free(*text_p);
}

static void
close_file(FILE **file_p)
{
    if (*file_p != NULL) {
        fclose(*file_p);
    }
}

json_t *
workflow_read(const char *path, const char **problem)
{
    static char words[96];
    CLEANUP(close_file) FILE *file = fopen(path, "rbe");
    CLEANUP(free_text) char *text = malloc(LIMIT_WORKFLOW);
    size_t length = file == NULL || text == NULL ? 0 : fread(text, 1, LIMIT_WORKFLOW, file);
    if (file == NULL || text == NULL || ferror(file) != 0) {
        *problem = "workflow=: the file cannot be read";
        return NULL;
    }
    if (length == LIMIT_WORKFLOW) {
        *problem = "workflow=: the file is over 1 MiB";
        return NULL;
    }
    json_t *graph = json_loadb(text, length, JSON_REJECT_DUPLICATES, NULL);
    if (!json_is_object(graph) || json_object_get(graph, "nodes") != NULL) {
        json_decref(graph);
        *problem = "workflow=: the file is no workflow in API format (ComfyUI: Export (API))";
        return NULL;
    }
    unsigned places = places_in(graph, 0);
    for (unsigned i = 0; i <= PLACE_STEPS; i++) {
        if ((places & (1U << i)) == 0) {
            json_decref(graph);
            snprintf(words, sizeof words, "workflow=: the file has no place \"%s\"",
                     place_names[i]);
            *problem = words;
            return NULL;
        }
    }
    return graph;
}
