#pragma once
/*
 * id_table — finds things by job id: a hash table that borrows what it holds.
 *
 * Open addressing, at most three quarters full, O(1). Ids that clients choose go in here too, so
 * the hash is SipHash with a random key: nobody can make them collide. Needs sodium_init().
 */
#include "common/ids.h"
#include <stddef.h>

struct id_table;

int id_table_new(struct id_table **out); /* 0 or -ENOMEM */
void id_table_destroy(struct id_table **self_p);
void *id_table_get(const struct id_table *self, const struct job_id *id); /* NULL: absent */
/* Puts `item`, not NULL, under an id that is not there yet; aborts when memory is gone. */
void id_table_put(struct id_table *self, const struct job_id *id, void *item);
/* Takes out what is under the id and returns it; NULL: absent. */
void *id_table_remove(struct id_table *self, const struct job_id *id);
size_t id_table_count(const struct id_table *self);
