#include "broker/table.h"
#include <assert.h>
#include <stdlib.h>

void
table_clear(struct table *self)
{
    free(self->slots);
    *self = (struct table){ 0 };
}

uint32_t
table_hash(const void *bytes, size_t length)
{
    const uint8_t *at = bytes;
    uint64_t hash = 0xcbf29ce484222325U;
    for (size_t i = 0; i < length; i++) {
        hash = (hash ^ at[i]) * 0x100000001b3U;
    }
    hash ^= hash >> 29;
    return (uint32_t)(hash ^ hash >> 32);
}

uint32_t
table_find(const struct table *self, uint32_t hash, table_match_fn match, const void *context)
{
    if (self->slots == NULL) {
        return TABLE_NONE;
    }
    for (uint32_t i = hash & self->mask; self->slots[i].index != TABLE_NONE;
         i = (i + 1) & self->mask) {
        if (self->slots[i].hash == hash && match(context, self->slots[i].index)) {
            return self->slots[i].index;
        }
    }
    return TABLE_NONE;
}

static void
slot_put(struct table *self, struct table_slot slot)
{
    uint32_t i = slot.hash & self->mask;
    while (self->slots[i].index != TABLE_NONE) {
        i = (i + 1) & self->mask;
    }
    self->slots[i] = slot;
}

static bool
table_grow(struct table *self)
{
    struct table grown = { .mask = self->slots == NULL ? 63 : self->mask * 2 + 1 };
    grown.slots = calloc((size_t)grown.mask + 1, sizeof *grown.slots);
    if (grown.slots == NULL) {
        return false;
    }
    for (uint32_t i = 0; i <= grown.mask; i++) {
        grown.slots[i].index = TABLE_NONE;
    }
    for (uint32_t i = 0; self->slots != NULL && i <= self->mask; i++) {
        if (self->slots[i].index != TABLE_NONE) {
            slot_put(&grown, self->slots[i]);
        }
    }
    free(self->slots);
    self->slots = grown.slots;
    self->mask = grown.mask;
    return true;
}

bool
table_add(struct table *self, uint32_t hash, uint32_t index)
{
    /* at most three quarters full: probes stay short and one slot is always empty */
    if ((self->slots == NULL || self->count >= self->mask - self->mask / 4) && !table_grow(self)) {
        return false;
    }
    slot_put(self, (struct table_slot){ hash, index });
    self->count++;
    return true;
}

void
table_remove(struct table *self, uint32_t hash, uint32_t index)
{
    assert(self->slots != NULL);
    uint32_t i = hash & self->mask;
    while (self->slots[i].index != index || self->slots[i].hash != hash) {
        assert(self->slots[i].index != TABLE_NONE);
        i = (i + 1) & self->mask;
    }
    /* close the gap: move back every later entry of the run that may stand here */
    for (uint32_t k = (i + 1) & self->mask; self->slots[k].index != TABLE_NONE;
         k = (k + 1) & self->mask) {
        uint32_t home = self->slots[k].hash & self->mask;
        if (((k - home) & self->mask) >= ((k - i) & self->mask)) {
            self->slots[i] = self->slots[k];
            i = k;
        }
    }
    self->slots[i].index = TABLE_NONE;
    self->count--;
}
