#include "gateway/id_table.h"
#include <assert.h>
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_SIZE = 64 }; /* a power of two */

struct slot {
    struct job_id id;
    void *item; /* NULL: free */
};

struct id_table {
    struct slot *slots;
    size_t size, count; /* size is a power of two */
    uint8_t key[crypto_shorthash_KEYBYTES];
};

int
id_table_new(struct id_table **out)
{
    struct id_table *self = calloc(1, sizeof *self);
    struct slot *slots = calloc(FIRST_SIZE, sizeof *slots);
    if (self == NULL || slots == NULL) {
        free(self);
        free(slots);
        return -ENOMEM;
    }
    self->slots = slots;
    self->size = FIRST_SIZE;
    crypto_shorthash_keygen(self->key);
    *out = self;
    return 0;
}

void
id_table_destroy(struct id_table **self_p)
{
    if (*self_p != NULL) {
        free((*self_p)->slots);
        free(*self_p);
        *self_p = NULL;
    }
}

static size_t
home_of(const struct id_table *self, const struct job_id *id)
{
    uint8_t hash[crypto_shorthash_BYTES];
    uint64_t number;
    crypto_shorthash(hash, id->bytes, sizeof id->bytes, self->key);
    memcpy(&number, hash, sizeof number);
    return number & (self->size - 1);
}

/* The slot that holds the id, or the free one where it would go. */
static size_t
find(const struct id_table *self, const struct job_id *id)
{
    size_t at = home_of(self, id);
    while (self->slots[at].item != NULL && !job_id_equal(&self->slots[at].id, id)) {
        at = (at + 1) & (self->size - 1);
    }
    return at;
}

void *
id_table_get(const struct id_table *self, const struct job_id *id)
{
    return self->slots[find(self, id)].item;
}

static void
grow(struct id_table *self)
{
    struct slot *old = self->slots;
    size_t old_size = self->size;
    self->size *= 2;
    self->slots = calloc(self->size, sizeof *self->slots);
    if (self->slots == NULL) {
        abort();
    }
    for (size_t i = 0; i < old_size; i++) {
        if (old[i].item != NULL) {
            self->slots[find(self, &old[i].id)] = old[i];
        }
    }
    free(old);
}

void
id_table_put(struct id_table *self, const struct job_id *id, void *item)
{
    assert(item != NULL);
    if ((self->count + 1) * 4 > self->size * 3) {
        grow(self);
    }
    size_t at = find(self, id);
    assert(self->slots[at].item == NULL);
    self->slots[at] = (struct slot){ .id = *id, .item = item };
    self->count++;
}

void *
id_table_remove(struct id_table *self, const struct job_id *id)
{
    size_t hole = find(self, id);
    void *item = self->slots[hole].item;
    if (item == NULL) {
        return NULL;
    }
    self->count--;
    /* Close the gap: move up each follower that its search would no longer reach past the hole. */
    size_t mask = self->size - 1;
    for (size_t at = (hole + 1) & mask; self->slots[at].item != NULL; at = (at + 1) & mask) {
        size_t home = home_of(self, &self->slots[at].id);
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            self->slots[hole] = self->slots[at];
            hole = at;
        }
    }
    self->slots[hole].item = NULL;
    return item;
}

size_t
id_table_count(const struct id_table *self)
{
    return self->count;
}
