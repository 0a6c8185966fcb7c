#include "worker/facts.h"
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Room for the closing of the object and for what is not an instance. */
enum { FACTS_FRAME_BYTES = 1024 };

static json_t *
models_json(const struct capability *capability)
{
    json_t *models = json_array();
    for (uint32_t i = 0; i < capability->n_models; i++) {
        json_array_append_new(models, json_string(capability->models[i]));
    }
    return models;
}

static uint32_t
count_in(const struct agent *agent, enum held_state state)
{
    uint32_t n = 0;
    for (uint32_t slot = 0; slot < LIMIT_WORKER_LEASES; slot++) {
        n += agent_held(agent, slot)->state == state;
    }
    return n;
}

static json_t *
instances_json(const struct supervisor *supervisor, size_t room)
{
    json_t *instances = json_array();
    char text[LIMIT_FACTS_BYTES];
    for (uint32_t i = 0; i < supervisor_count(supervisor); i++) {
        size_t length =
            instance_facts(supervisor, i, text, room < sizeof text ? room : sizeof text);
        if (length == 0) {
            break;
        }
        /* Parsed, not pasted: a beat with broken JSON would blind whoever reads it. */
        json_t *instance = json_loadb(text, length, JSON_REJECT_DUPLICATES, NULL);
        if (instance != NULL) {
            json_array_append_new(instances, instance);
            room -= length < room ? length : room;
        }
    }
    return instances;
}

void
facts_write(char out[LIMIT_FACTS_BYTES], const struct agent *agent,
            const struct capability *capability, const struct supervisor *supervisor)
{
    char host[HOST_NAME_MAX + 1] = "";
    gethostname(host, sizeof host - 1);
    json_t *facts = json_object();
    json_object_set_new(facts, "version", json_string(DRAWBAR_VERSION));
    json_object_set_new(facts, "pid", json_integer(getpid()));
    json_object_set_new(facts, "host", json_string(host));
    json_object_set_new(facts, "places", json_integer(supervisor_count(supervisor)));
    json_object_set_new(facts, "running", json_integer(count_in(agent, HELD_DRAWING)));
    json_object_set_new(facts, "held_results", json_integer(agent_held_results(agent)));
    json_object_set_new(facts, "draining", json_boolean(agent_is_draining(agent)));
    json_object_set_new(facts, "models", models_json(capability));
    size_t used = json_dumpb(facts, NULL, 0, JSON_COMPACT);
    size_t room = used + FACTS_FRAME_BYTES < LIMIT_FACTS_BYTES
                      ? LIMIT_FACTS_BYTES - used - FACTS_FRAME_BYTES
                      : 0;
    json_object_set_new(facts, "instances", instances_json(supervisor, room));
    size_t length = json_dumpb(facts, out, LIMIT_FACTS_BYTES - 1, JSON_COMPACT);
    if (length >= LIMIT_FACTS_BYTES) {
        length = (size_t)snprintf(out, LIMIT_FACTS_BYTES, "{\"pid\":%d}", (int)getpid());
    }
    out[length] = '\0';
    json_decref(facts);
}
