#include "broker/jobs.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_JOBS = 4096 };
_Static_assert(BLOCK_JOBS == 1 << 12, "job_at() shifts by 12");

void
jobs_setup(struct jobs *self)
{
    *self = (struct jobs){ .free_first = JOB_NOBODY };
}

static void
job_free_parts(struct job *job)
{
    free(job->request);
    free(job->result);
    free(job->ordeal);
}

void
jobs_clear(struct jobs *self)
{
    for (uint32_t i = 0; i < self->n_used; i++) {
        job_free_parts(job_at(self, i)); /* a freed job has only NULLs */
    }
    for (uint32_t i = 0; i < self->n_blocks; i++) {
        free(self->blocks[i]);
    }
    free(self->blocks);
    free(self->heap);
    table_clear(&self->by_id);
    jobs_setup(self);
}

struct id_sought {
    const struct jobs *jobs;
    const struct job_id *id;
};

static bool
id_matches(const void *context, uint32_t index)
{
    const struct id_sought *sought = context;
    return memcmp(&job_at(sought->jobs, index)->id, sought->id, sizeof *sought->id) == 0;
}

uint32_t
jobs_find(const struct jobs *self, const struct job_id *id)
{
    struct id_sought sought = { self, id };
    return table_find(&self->by_id, table_hash(id, sizeof *id), id_matches, &sought);
}

static uint32_t
index_take(struct jobs *self)
{
    if (self->free_first != JOB_NOBODY) {
        uint32_t index = self->free_first;
        self->free_first = job_at(self, index)->next;
        return index;
    }
    if (self->n_used == self->n_blocks * BLOCK_JOBS) {
        struct job **blocks = calloc(self->n_blocks + 1, sizeof(void *));
        struct job *block = calloc(BLOCK_JOBS, sizeof *block);
        if (blocks == NULL || block == NULL) {
            free(blocks);
            free(block);
            return JOB_NOBODY;
        }
        if (self->n_blocks > 0) {
            memcpy(blocks, self->blocks, self->n_blocks * sizeof(void *));
        }
        free(self->blocks);
        self->blocks = blocks;
        self->blocks[self->n_blocks++] = block;
    }
    return self->n_used++;
}

static void
index_give(struct jobs *self, uint32_t index)
{
    struct job *job = job_at(self, index);
    *job = (struct job){ .next = self->free_first };
    self->free_first = index;
}

uint32_t
jobs_add(struct jobs *self, const struct job_id *id, struct slice request)
{
    uint32_t index = index_take(self);
    if (index == JOB_NOBODY) {
        return JOB_NOBODY;
    }
    uint8_t *copy = calloc(1, request.length > 0 ? request.length : 1);
    if (copy == NULL || !table_add(&self->by_id, table_hash(id, sizeof *id), index)) {
        free(copy);
        index_give(self, index);
        return JOB_NOBODY;
    }
    if (request.length > 0) {
        memcpy(copy, request.bytes, request.length);
    }
    struct job *job = job_at(self, index);
    *job = (struct job){ .id = *id,
                         .request = copy,
                         .request_length = request.length,
                         .gateway = UINT8_MAX,
                         .heap_at = JOB_NOBODY,
                         .worker = JOB_NOBODY,
                         .previous = JOB_NOBODY,
                         .next = JOB_NOBODY };
    self->count++;
    self->bytes += request.length;
    return index;
}

void
jobs_remove(struct jobs *self, uint32_t index)
{
    struct job *job = job_at(self, index);
    assert(job->heap_at == JOB_NOBODY);
    table_remove(&self->by_id, table_hash(&job->id, sizeof job->id), index);
    self->bytes -= (uint64_t)job->request_length + job->result_length;
    self->count--;
    job_free_parts(job);
    index_give(self, index);
}

bool
job_set_result(struct jobs *self, struct job *job, struct slice result)
{
    uint8_t *copy = calloc(1, result.length > 0 ? result.length : 1);
    if (copy == NULL) {
        return false;
    }
    if (result.length > 0) {
        memcpy(copy, result.bytes, result.length);
    }
    self->bytes += result.length;
    self->bytes -= job->result_length;
    free(job->result);
    job->result = copy;
    job->result_length = result.length;
    return true;
}

struct job_ordeal *
job_ordeal(struct job *job)
{
    if (job->ordeal == NULL) {
        job->ordeal = calloc(1, sizeof *job->ordeal);
    }
    return job->ordeal;
}

/* ---- the deadline heap ---- */

static void
heap_put(struct jobs *self, uint32_t at, uint32_t index)
{
    self->heap[at] = index;
    job_at(self, index)->heap_at = at;
}

static bool
heap_before(const struct jobs *self, uint32_t a, uint32_t b)
{
    return job_at(self, a)->deadline_ms < job_at(self, b)->deadline_ms;
}

static void
heap_up(struct jobs *self, uint32_t at, uint32_t index)
{
    while (at > 0 && heap_before(self, index, self->heap[(at - 1) / 2])) {
        heap_put(self, at, self->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    heap_put(self, at, index);
}

static void
heap_down(struct jobs *self, uint32_t at, uint32_t index)
{
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= self->heap_count) {
            break;
        }
        if (child + 1 < self->heap_count &&
            heap_before(self, self->heap[child + 1], self->heap[child])) {
            child++;
        }
        if (!heap_before(self, self->heap[child], index)) {
            break;
        }
        heap_put(self, at, self->heap[child]);
        at = child;
    }
    heap_put(self, at, index);
}

bool
jobs_deadline_add(struct jobs *self, uint32_t index)
{
    assert(job_at(self, index)->heap_at == JOB_NOBODY);
    if (self->heap_count == self->heap_capacity) {
        uint32_t capacity = self->heap_capacity > 0 ? self->heap_capacity * 2 : 1024;
        uint32_t *heap = calloc(capacity, sizeof *heap);
        if (heap == NULL) {
            return false;
        }
        if (self->heap_count > 0) {
            memcpy(heap, self->heap, self->heap_count * sizeof *heap);
        }
        free(self->heap);
        self->heap = heap;
        self->heap_capacity = capacity;
    }
    heap_up(self, self->heap_count++, index);
    return true;
}

void
jobs_deadline_remove(struct jobs *self, uint32_t index)
{
    uint32_t at = job_at(self, index)->heap_at;
    if (at == JOB_NOBODY) {
        return;
    }
    job_at(self, index)->heap_at = JOB_NOBODY;
    uint32_t last = self->heap[--self->heap_count];
    if (last == index) {
        return;
    }
    if (at > 0 && heap_before(self, last, self->heap[(at - 1) / 2])) {
        heap_up(self, at, last);
    } else {
        heap_down(self, at, last);
    }
}

uint32_t
jobs_deadline_first(const struct jobs *self)
{
    return self->heap_count > 0 ? self->heap[0] : JOB_NOBODY;
}

/* ---- lists ---- */

void
job_list_setup(struct job_list *list)
{
    *list = (struct job_list){ JOB_NOBODY, JOB_NOBODY, 0 };
}

void
job_list_append(struct jobs *self, struct job_list *list, uint32_t index)
{
    struct job *job = job_at(self, index);
    job->previous = list->last;
    job->next = JOB_NOBODY;
    if (list->last != JOB_NOBODY) {
        job_at(self, list->last)->next = index;
    } else {
        list->first = index;
    }
    list->last = index;
    list->count++;
}

void
job_list_remove(struct jobs *self, struct job_list *list, uint32_t index)
{
    struct job *job = job_at(self, index);
    if (job->previous != JOB_NOBODY) {
        job_at(self, job->previous)->next = job->next;
    } else {
        assert(list->first == index);
        list->first = job->next;
    }
    if (job->next != JOB_NOBODY) {
        job_at(self, job->next)->previous = job->previous;
    } else {
        assert(list->last == index);
        list->last = job->previous;
    }
    job->previous = job->next = JOB_NOBODY;
    list->count--;
}
