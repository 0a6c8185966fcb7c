#pragma once
/*
 * table — finds an index (uint32_t) by a hash; open addressing, grown by doubling, 8 bytes a slot.
 *
 * The owner of the things keeps the keys: a look-up names a match function that says whether the
 * thing at an index is the one sought. Entries with equal hashes are fine.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TABLE_NONE UINT32_MAX

struct table_slot {
    uint32_t hash, index; /* index TABLE_NONE: empty */
};
struct table {
    struct table_slot *slots;
    uint32_t mask; /* slots - 1; 0: none yet */
    uint32_t count;
};

typedef bool (*table_match_fn)(const void *context, uint32_t index);

void table_clear(struct table *self); /* frees the slots */
/* The index whose thing matches, or TABLE_NONE. */
uint32_t table_find(const struct table *self, uint32_t hash, table_match_fn match,
                    const void *context);
/* Adds; the caller has looked that it is not there. False: memory is gone, nothing changed. */
bool table_add(struct table *self, uint32_t hash, uint32_t index);
/* Removes the entry (hash, index), which must be there. */
void table_remove(struct table *self, uint32_t hash, uint32_t index);
/* FNV-1a, folded to 32 bits and mixed. */
uint32_t table_hash(const void *bytes, size_t length);
