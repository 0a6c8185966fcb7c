#pragma once
/*
 * order — jobs sorted by (key, sequence): a treap that knows how many and how much cost come
 * before.
 *
 * The nodes are the jobs' own (struct job, `node`); a tree is the index of its root, JOB_NOBODY
 * when empty. Priorities are a hash of the sequence, so the same jobs make the same tree. O(log n)
 * each.
 */
#include "broker/jobs.h"

struct ahead {
    uint32_t jobs;
    uint64_t cost;
};

void order_insert(struct jobs *jobs, uint32_t *root, uint32_t index);
/* The job must be in the tree. */
void order_remove(struct jobs *jobs, uint32_t *root, uint32_t index);
/* The rank-th job, 0 the first; JOB_NOBODY beyond the last. */
uint32_t order_at(const struct jobs *jobs, uint32_t root, uint32_t rank);
/* How many jobs, and what cost, stand before (key, sequence). */
struct ahead order_ahead(const struct jobs *jobs, uint32_t root, uint64_t key, uint64_t sequence);
/* Jobs and cost of the whole tree. */
struct ahead order_total(const struct jobs *jobs, uint32_t root);
/* True if a stands before b. */
bool order_before(const struct job *a, const struct job *b);
