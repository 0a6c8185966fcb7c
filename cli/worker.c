#include "cli/worker.h"
#include "cli/terminal.h"
#include "common/scope.h"
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

static void
text_read(char *out, size_t size, const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    text_fit(out, size, text != NULL ? text : "", UINT32_MAX, true);
}

static uint32_t
count_read(const json_t *object, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(object, key));
    return value > 0 && value <= LIMIT_WORKER_LEASES ? (uint32_t)value : 0;
}

static int
facts_read(struct worker_facts *out, const json_t *object)
{
    if (!json_is_string(json_object_get(object, "name"))) {
        return -EBADMSG;
    }
    *out = (struct worker_facts){ .draining = json_is_true(json_object_get(object, "draining")),
                                  .n_jobs = count_read(object, "running") +
                                            count_read(object, "held_results") };
    text_read(out->name, sizeof out->name, object, "name");
    text_read(out->incarnation, sizeof out->incarnation, object, "incarnation");
    text_read(out->state, sizeof out->state, object, "state");
    return 0;
}

int
worker_read(struct worker_facts *out, const char *json, size_t length)
{
    json_t *root = json_loadb(json, length, JSON_REJECT_DUPLICATES, NULL);
    int rc = facts_read(out, root);
    json_decref(root);
    return rc;
}

static enum worker_stand
stand_of(const struct worker_facts *now)
{
    if (strcmp(now->state, "gone") == 0) {
        return WORKER_LOST;
    }
    if (strcmp(now->state, "silent") == 0) {
        return WORKER_SILENT;
    }
    return now->draining ? WORKER_DRAINS : WORKER_WORKS;
}

int
// NOLINTNEXTLINE(readability-function-size): see the header
worker_look(enum worker_stand *stand, struct worker_facts *now, const struct worker_facts *told,
            const char *json, size_t length)
{
    json_t *root = json_loadb(json, length, JSON_REJECT_DUPLICATES, NULL);
    const json_t *workers = json_object_get(root, "workers");
    int rc = json_is_array(workers) ? 0 : -EBADMSG;
    size_t i;
    json_t *item;
    *stand = WORKER_LEFT;
    json_array_foreach((json_t *)workers, i, item)
    {
        struct worker_facts facts;
        if (facts_read(&facts, item) != 0 || strcmp(facts.name, told->name) != 0) {
            continue;
        }
        bool another = told->incarnation[0] != '\0' && facts.incarnation[0] != '\0' &&
                       strcmp(told->incarnation, facts.incarnation) != 0;
        if (!another) {
            *now = facts;
            *stand = stand_of(&facts);
        }
    }
    json_decref(root);
    return rc;
}

bool
worker_drain_path(const char *name, char out[LIMIT_URL])
{
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_";
    char escaped[3 * LIMIT_WORKER_NAME + 1];
    size_t used = 0;
    if (name[0] == '\0' || strlen(name) > LIMIT_WORKER_NAME) {
        return false;
    }
    for (const char *c = name; *c != '\0'; c++) {
        used += (size_t)snprintf(escaped + used, sizeof escaped - used,
                                 strchr(plain, *c) != NULL ? "%c" : "%%%02X", (unsigned char)*c);
    }
    int length = snprintf(out, LIMIT_URL, "/v1/workers/%s/drain", escaped);
    return length > 0 && length < LIMIT_URL;
}
_Static_assert(3UL * LIMIT_WORKER_NAME + sizeof "/v1/workers//drain" <= LIMIT_URL,
               "it always fits");
