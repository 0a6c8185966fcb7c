#include "worker/drivers/comfyui_json.h"
#include "common/scope.h"
#include <stdio.h>
#include <string.h>

bool
comfyui_picture(const json_t *outputs, char path[LIMIT_INSTANCE_PATH], const char **node)
{
    const json_t *found = NULL;
    const char *id = NULL;
    json_t *output = NULL;
    *node = NULL;
    json_object_foreach((json_t *)outputs, id, output)
    {
        const json_t *image = json_array_get(json_object_get(output, "images"), 0);
        const char *type = json_string_value(json_object_get(image, "type"));
        bool kept = type == NULL || strcmp(type, "output") == 0;
        if (json_is_string(json_object_get(image, "filename")) && (found == NULL || kept)) {
            found = image;
            *node = id;
            if (kept) {
                break;
            }
        }
    }
    if (found == NULL) {
        return false;
    }
    static const char *const names[] = { "filename", "subfolder", "type" };
    static const char *const otherwise[] = { "", "", "output" };
    snprintf(path, LIMIT_INSTANCE_PATH, "/view?");
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        const char *value = json_string_value(json_object_get(found, names[i]));
        size_t used = strlen(path);
        int n =
            snprintf(path + used, LIMIT_INSTANCE_PATH - used, "%s%s=", i == 0 ? "" : "&", names[i]);
        if (n >= (int)(LIMIT_INSTANCE_PATH - used) ||
            !kit_escape(path, LIMIT_INSTANCE_PATH, value == NULL ? otherwise[i] : value)) {
            return false;
        }
    }
    return true;
}

/* A text of one line: ComfyUI ends its own with line feeds. */
static void
one_line(const json_t *value, char *out, size_t size)
{
    const char *text = json_is_string(value) ? json_string_value(value) : "";
    size_t length = strcspn(text, "\r\n");
    json_t *line = json_stringn(text, length);
    kit_text(line, out, size);
    json_decref(line);
}

void
comfyui_why(const json_t *status, char out[COMFYUI_WHY])
{
    char why[KIT_TEXT] = "";
    char kind[48] = "";
    size_t i = 0;
    const json_t *item = NULL;
    json_array_foreach(json_object_get(status, "messages"), i, item)
    {
        const char *event = json_string_value(json_array_get(item, 0));
        const json_t *data = json_array_get(item, 1);
        if (event != NULL && strcmp(event, "execution_error") == 0) {
            one_line(json_object_get(data, "exception_message"), why, sizeof why);
            if (why[0] == '\0') { /* an exception without words: its name */
                one_line(json_object_get(data, "exception_type"), why, sizeof why);
            }
            kit_text(json_object_get(data, "node_type"), kind, sizeof kind);
        } else if (event != NULL && strcmp(event, "execution_interrupted") == 0) {
            snprintf(why, sizeof why, "interrupted by somebody else");
        }
    }
    snprintf(out, COMFYUI_WHY, "the workflow failed%s%s: %s", kind[0] == '\0' ? "" : " in ", kind,
             why[0] == '\0' ? "no reason given" : why);
}

void
comfyui_refusal(const struct http_response *response, char out[COMFYUI_WHY])
{
    CLEANUP(kit_json_free) json_t *root = kit_json(response);
    char why[96];
    char name[16];
    char kind[48];
    char message[64];
    char details[96];
    const char *id = NULL;
    json_t *node = NULL;
    kit_reason(response, why, sizeof why);
    snprintf(out, COMFYUI_WHY, "HTTP %d: %s", response->status, why);
    json_object_foreach(json_object_get(root, "node_errors"), id, node)
    {
        const json_t *error = json_array_get(json_object_get(node, "errors"), 0);
        one_line(json_object_get(error, "message"), message, sizeof message);
        one_line(json_object_get(error, "details"), details, sizeof details);
        kit_text(json_object_get(node, "class_type"), kind, sizeof kind);
        if (message[0] != '\0') {
            json_t *text = json_string(id);
            kit_text(text, name, sizeof name);
            json_decref(text);
            snprintf(out, COMFYUI_WHY, "HTTP %d: node %s (%s): %s: %s", response->status, name,
                     kind, message, details);
            return;
        }
    }
    const json_t *error = json_object_get(root, "error");
    one_line(json_object_get(error, "details"), details, sizeof details);
    if (details[0] != '\0' && strcmp(details, why) != 0) {
        snprintf(out, COMFYUI_WHY, "HTTP %d: %s: %s", response->status, why, details);
    }
}

/* Entries are [number, prompt_id, graph, {"client_id", ...}, ...]. */
const char *
comfyui_of_client(const json_t *list, const char *client)
{
    size_t i = 0;
    const json_t *entry = NULL;
    json_array_foreach(list, i, entry)
    {
        const char *owner =
            json_string_value(json_object_get(json_array_get(entry, 3), "client_id"));
        if (owner != NULL && strcmp(owner, client) == 0) {
            return json_string_value(json_array_get(entry, 1));
        }
    }
    return NULL;
}

bool
comfyui_lists(const json_t *list, const char *id)
{
    size_t i = 0;
    const json_t *entry = NULL;
    json_array_foreach(list, i, entry)
    {
        const char *listed = json_string_value(json_array_get(entry, 1));
        if (listed != NULL && strcmp(listed, id) == 0) {
            return true;
        }
    }
    return false;
}
