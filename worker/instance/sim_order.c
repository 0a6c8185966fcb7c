#include "worker/instance/sim_order.h"
#include "common/scope.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct reading {
    const json_t *document;
    struct sim_complaint *complaint;
    bool failed; /* the first mistake is told */
};

static void complain(struct reading *reading, const char *field, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void
complain(struct reading *reading, const char *field, const char *format, ...)
{
    struct sim_complaint *complaint = reading->complaint;
    if (reading->failed) {
        return;
    }
    va_list arguments;
    reading->failed = true;
    complaint->status = 422;
    complaint->code = "bad_field";
    (void)snprintf(complaint->field, sizeof complaint->field, "%s", field);
    va_start(arguments, format);
    (void)vsnprintf(complaint->message, sizeof complaint->message, format, arguments);
    va_end(arguments);
}

bool
sim_job_id_is_good(const char *id)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t length = strlen(id);
    return length >= 1 && length <= LIMIT_INSTANCE_JOB_ID && strspn(id, allowed) == length;
}

static size_t
count_characters(const char *utf8)
{
    size_t count = 0;
    for (const char *c = utf8; *c != '\0'; c++) {
        count += ((unsigned char)*c & 0xc0) != 0x80;
    }
    return count;
}

/* A string, or NULL. `least` characters at least; 0 makes it optional. */
static const char *
read_text(struct reading *reading, const char *field, size_t least)
{
    const json_t *value = json_object_get(reading->document, field);
    if (value == NULL && least == 0) {
        return NULL;
    }
    const char *text = json_string_value(value);
    size_t length = text == NULL ? 0 : count_characters(text);
    if (text == NULL || length < least || length > LIMIT_PROMPT_CHARS) {
        complain(reading, field, "must be a string of %zu to %d characters", least,
                 LIMIT_PROMPT_CHARS);
        return NULL;
    }
    return text;
}

struct range {
    int64_t least, most, step;
    int64_t otherwise; /* if absent; -1: it is required */
};

static uint32_t
read_number(struct reading *reading, const char *field, struct range range)
{
    const json_t *value = json_object_get(reading->document, field);
    if (value == NULL && range.otherwise >= 0) {
        return (uint32_t)range.otherwise;
    }
    int64_t number = json_integer_value(value);
    if (!json_is_integer(value) || number < range.least || number > range.most ||
        number % range.step != 0) {
        if (range.step > 1) {
            complain(reading, field, "must be a multiple of %d from %d to %d", (int)range.step,
                     (int)range.least, (int)range.most);
        } else {
            complain(reading, field, "must be an integer from %lld to %lld", (long long)range.least,
                     (long long)range.most);
        }
        return 0;
    }
    return (uint32_t)number;
}

static void
refuse_unknown(struct reading *reading)
{
    static const char *const known[] = { "id",     "prompt", "negative_prompt", "width",
                                         "height", "steps",  "guidance",        "seed",
                                         "n",      "format" };
    const char *field = NULL;
    json_t *value = NULL;
    json_object_foreach((json_t *)reading->document, field, value)
    {
        bool found = false;
        for (size_t i = 0; i < ARRAY_LENGTH(known); i++) {
            found = found || strcmp(field, known[i]) == 0;
        }
        if (!found) {
            complain(reading, field, "no such field");
        }
    }
}

static void
read_fields(struct reading *reading, struct sim_order *order)
{
    const struct range side = { LIMIT_SIDE_MIN, LIMIT_SIDE_MAX, LIMIT_SIDE_STEP, -1 };
    const json_t *guidance = json_object_get(reading->document, "guidance");
    const json_t *format = json_object_get(reading->document, "format");
    order->id = json_string_value(json_object_get(reading->document, "id"));
    if (order->id == NULL || !sim_job_id_is_good(order->id)) {
        complain(reading, "id", "must be 1 to %d characters of [A-Za-z0-9._-]",
                 LIMIT_INSTANCE_JOB_ID);
    }
    order->prompt = read_text(reading, "prompt", 1);
    (void)read_text(reading, "negative_prompt", 0); /* checked; a simulation has no use for it */
    order->width = read_number(reading, "width", side);
    order->height = read_number(reading, "height", side);
    order->steps = read_number(reading, "steps", (struct range){ 1, LIMIT_STEPS, 1, -1 });
    order->seed = read_number(reading, "seed", (struct range){ 0, UINT32_MAX, 1, -1 });
    order->n = read_number(reading, "n", (struct range){ 1, LIMIT_IMAGES, 1, 1 });
    if (guidance != NULL && (!json_is_number(guidance) || json_number_value(guidance) < 0 ||
                             json_number_value(guidance) > LIMIT_INSTANCE_GUIDANCE)) {
        complain(reading, "guidance", "must be a number from 0 to %d", LIMIT_INSTANCE_GUIDANCE);
    }
    if (format != NULL &&
        (!json_is_string(format) || strcmp(json_string_value(format), "png") != 0)) {
        complain(reading, "format", "must be \"png\"");
    }
    refuse_unknown(reading);
}

bool
sim_order_read(const char *bytes, size_t length, struct sim_order *order, json_t **document,
               struct sim_complaint *complaint)
{
    json_error_t error;
    *complaint = (struct sim_complaint){ .status = 400, .code = "bad_json" };
    *document = json_loadb(bytes, length, JSON_REJECT_DUPLICATES, &error);
    if (*document == NULL) {
        (void)snprintf(complaint->message, sizeof complaint->message, "line %d: %s", error.line,
                       error.text);
        return false;
    }
    struct reading reading = { .document = *document, .complaint = complaint };
    if (json_is_object(*document)) {
        read_fields(&reading, order);
    } else {
        (void)snprintf(complaint->message, sizeof complaint->message, "must be a JSON object");
        reading.failed = true;
    }
    if (reading.failed) {
        json_decref(*document);
        *document = NULL;
    }
    return !reading.failed;
}
