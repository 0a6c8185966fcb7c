#include "worker/facts.h"
#include "common/clock.h"
#include "common/scope.h"
#include "worker/gpu.h"
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Room for commas, keys and brackets around what is counted. */
enum { FACTS_FRAME_BYTES = 256 };

/* For one more member. */
static size_t
room_left(const json_t *facts)
{
    size_t used = json_dumpb(facts, NULL, 0, JSON_COMPACT) + FACTS_FRAME_BYTES;
    return used < LIMIT_FACTS_BYTES ? LIMIT_FACTS_BYTES - used : 0;
}

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

static json_t *
gpu_json(const struct nvml_device *device, uint32_t index, int64_t age_ms)
{
    const struct {
        const char *key;
        int64_t value;
    } numbers[] = {
        { "memory_total_mib", device->total_mib },
        { "memory_used_mib", device->used_mib },
        { "memory_free_mib", device->free_mib },
        { "utilization_percent", device->busy_percent },
        { "memory_utilization_percent", device->memory_percent },
        { "temperature_c", device->temperature_c },
        { "power_w", device->power_w },
        { "power_limit_w", device->limit_w },
        { "age_ms", age_ms },
    };
    json_t *gpu = json_pack("{s:i}", "index", (int)index);
    if (device->name[0] != '\0') {
        json_object_set_new(gpu, "name", json_string(device->name));
    }
    if (device->uuid[0] != '\0') {
        json_object_set_new(gpu, "uuid", json_string(device->uuid));
    }
    for (size_t i = 0; i < ARRAY_LENGTH(numbers); i++) {
        if (numbers[i].value != NVML_UNKNOWN) {
            json_object_set_new(gpu, numbers[i].key, json_integer(numbers[i].value));
        }
    }
    return gpu;
}

/* NULL: there is none. */
static json_t *
gpus_json(struct gpu *gpu, size_t room)
{
    const struct gpu_sample *sample = gpu_latest(gpu);
    json_t *gpus = json_array();
    int64_t now_ms = clock_mono_ms();
    for (uint32_t i = 0; sample != NULL && i < sample->figures.n_devices; i++) {
        const struct nvml_device *device = &sample->figures.devices[i];
        json_t *one = gpu_json(device, i, now_ms - sample->begun_ms);
        size_t length = json_dumpb(one, NULL, 0, JSON_COMPACT) + 1;
        if (!device->present || length > room) {
            json_decref(one);
            continue;
        }
        json_array_append_new(gpus, one);
        room -= length;
    }
    if (json_array_size(gpus) == 0) {
        json_decref(gpus);
        return NULL;
    }
    return gpus;
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
    json_object_set_new(facts, "instances", instances_json(supervisor, room_left(facts)));
    json_t *gpus = gpus_json(supervisor_gpu(supervisor), room_left(facts));
    if (gpus != NULL) {
        json_object_set_new(facts, "gpus", gpus);
    }
    size_t length = json_dumpb(facts, out, LIMIT_FACTS_BYTES - 1, JSON_COMPACT);
    if (length >= LIMIT_FACTS_BYTES) {
        length = (size_t)snprintf(out, LIMIT_FACTS_BYTES, "{\"pid\":%d}", (int)getpid());
    }
    out[length] = '\0';
    json_decref(facts);
}
