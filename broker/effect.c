#include "broker/effect.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct effect_block {
    struct effect_block *next;
    uint64_t bytes[];
};

void
effects_clear(struct effects *self)
{
    while (self->blocks != NULL) {
        struct effect_block *next = self->blocks->next;
        free(self->blocks);
        self->blocks = next;
    }
    self->count = 0;
}

void
effects_destroy(struct effects *self)
{
    effects_clear(self);
    free(self->items);
    *self = (struct effects){ 0 };
}

struct effect *
effects_add(struct effects *self, enum effect_kind kind)
{
    if (self->count == self->capacity) {
        uint32_t capacity = self->capacity > 0 ? self->capacity * 2 : 16;
        struct effect *items = calloc(capacity, sizeof *items);
        assert(items != NULL); /* out of memory ends the broker: a standby leads */
        if (self->count > 0) {
            memcpy(items, self->items, self->count * sizeof *items);
        }
        free(self->items);
        self->items = items;
        self->capacity = capacity;
    }
    struct effect *effect = &self->items[self->count++];
    memset(effect, 0, sizeof *effect);
    effect->kind = kind;
    return effect;
}

void *
effects_memory(struct effects *self, size_t bytes)
{
    struct effect_block *block = calloc(1, sizeof *block + bytes);
    assert(block != NULL);
    block->next = self->blocks;
    self->blocks = block;
    return block->bytes;
}
