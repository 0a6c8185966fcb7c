#include "worker/devices.h"
#include <stdlib.h>
#include <string.h>

static bool
has(const struct devices *self, uint32_t number)
{
    for (uint32_t i = 0; i < self->count; i++) {
        if (self->numbers[i] == number) {
            return true;
        }
    }
    return false;
}

const char *
devices_read(struct devices *out, const char *text)
{
    *out = (struct devices){ 0 };
    if (strcmp(text, "auto") == 0) {
        return NULL;
    }
    for (const char *at = text;; at++) {
        char *end = NULL;
        unsigned long number = strtoul(at, &end, 10);
        if (*at < '0' || *at > '9' || (*end != ',' && *end != '\0')) {
            return "must be \"auto\" or numbers of GPUs with commas between them, as in 0,1";
        }
        if (number >= LIMIT_GPUS) {
            return "a GPU's number is 0 to 15: nvidia-smi --list-gpus shows them";
        }
        if (has(out, (uint32_t)number)) {
            return "names a GPU twice: each once, and --instances says how many share them";
        }
        out->numbers[out->count++] = (uint32_t)number; /* all different: they fit */
        at = end;
        if (*at == '\0') {
            return NULL;
        }
    }
}

int64_t
devices_unknown(const struct devices *self, const struct nvml_figures *figures)
{
    for (uint32_t i = 0; i < self->count; i++) {
        uint32_t number = self->numbers[i];
        if (number >= figures->n_devices || !figures->devices[number].present) {
            return number;
        }
    }
    return -1;
}

/* The GPU that a word of CUDA_VISIBLE_DEVICES names; -1: none. */
static int64_t
find_named(const struct nvml_figures *figures, const char *word, size_t length)
{
    char *end = NULL;
    if (length > 0 && word[0] >= '0' && word[0] <= '9') {
        unsigned long number = strtoul(word, &end, 10);
        return end == word + length && number < figures->n_devices ? (int64_t)number : -1;
    }
    for (uint32_t i = 0; i < figures->n_devices && length > strlen("GPU-"); i++) {
        if (strncmp(figures->devices[i].uuid, word, length) == 0) {
            return i;
        }
    }
    return -1;
}

void
devices_choose(struct devices *out, const struct nvml_figures *figures, const char *visible)
{
    *out = (struct devices){ 0 };
    for (uint32_t i = 0; visible == NULL && i < figures->n_devices; i++) {
        if (figures->devices[i].present) {
            out->numbers[out->count++] = i;
        }
    }
    for (const char *at = visible; at != NULL && out->count < LIMIT_GPUS;) {
        at += strspn(at, " ");
        size_t length = strcspn(at, ", ");
        int64_t number = find_named(figures, at, length);
        if (number < 0 || !figures->devices[number].present || has(out, (uint32_t)number)) {
            return;
        }
        out->numbers[out->count++] = (uint32_t)number;
        at = strchr(at, ',');
        at = at == NULL ? NULL : at + 1;
    }
}

int32_t
devices_of(const struct devices *self, uint32_t i)
{
    return self->count == 0 ? -1 : (int32_t)self->numbers[i % self->count];
}
