#include "tests/storm/storm.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct storm storm;

/* ---- chance: splitmix64 ---- */

uint64_t
any64(void)
{
    storm.random += 0x9e3779b97f4a7c15U;
    uint64_t z = storm.random;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
}

uint32_t
any(uint32_t below)
{
    return (uint32_t)((any64() >> 32) * below >> 32);
}

int64_t
between(int64_t low, int64_t high)
{
    return low + (int64_t)any((uint32_t)(high - low + 1));
}

bool
chance(uint32_t per_mille)
{
    return per_mille > 0 && any(1000) < per_mille;
}

/* ---- memory of a world ---- */

enum { CHUNK_BYTES = 1 << 20 };
struct chunk {
    struct chunk *next;
    size_t used, size;
    uint64_t bytes[];
};
static struct chunk *chunks;
enum { SPARE_CHUNKS = 64 };
static struct chunk *spare[SPARE_CHUNKS];
static uint32_t n_spare;

static struct chunk *
chunk_new(size_t bytes)
{
    size_t size = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
    struct chunk *chunk =
        size == CHUNK_BYTES && n_spare > 0 ? spare[--n_spare] : malloc(sizeof *chunk + size);
    if (chunk == NULL) {
        abort();
    }
    *chunk = (struct chunk){ .next = chunks, .size = size };
    return chunk;
}

void *
sim_memory(size_t bytes)
{
    bytes = (bytes + 15) & ~(size_t)15;
    if (chunks == NULL || chunks->used + bytes > chunks->size) {
        chunks = chunk_new(bytes);
    }
    void *memory = (uint8_t *)chunks->bytes + chunks->used;
    chunks->used += bytes;
    return memset(memory, 0, bytes);
}

/* ---- events: a binary heap by (time, order of asking) ---- */

struct event {
    int64_t at;
    uint64_t order;
    event_fn run;
    struct process *process;
    uint32_t life;
    void *owner, *data;
};
static struct event *heap;
static uint32_t heap_count, heap_capacity;
static uint64_t heap_order;

static bool
event_before(const struct event *a, const struct event *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static void
heap_add(struct event event) /* a late one keeps its order: what was sent first arrives first */
{
    if (heap_count == heap_capacity) {
        heap_capacity = heap_capacity > 0 ? heap_capacity * 2 : 1024;
        heap = realloc(heap, heap_capacity * sizeof *heap);
        if (heap == NULL) {
            abort();
        }
    }
    uint32_t at = heap_count++;
    while (at > 0 && event_before(&event, &heap[(at - 1) / 2])) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = event;
}

static struct event
heap_take(void)
{
    struct event first = heap[0];
    struct event last = heap[--heap_count];
    uint32_t at = 0;
    for (uint32_t child = 1; child < heap_count; child = 2 * at + 1) {
        child += child + 1 < heap_count && event_before(&heap[child + 1], &heap[child]);
        if (!event_before(&heap[child], &last)) {
            break;
        }
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return first;
}

void
sim_at(int64_t at, struct process *process, event_fn run, void *owner, void *data)
{
    struct event event = { .at = at < storm.now_ms ? storm.now_ms : at,
                           .order = heap_order++,
                           .run = run,
                           .process = process,
                           .owner = owner,
                           .data = data };
    event.life = process != NULL ? process->life : 0;
    heap_add(event);
}

enum { SPIN = 200000 }; /* events in one millisecond: something goes round and round */

void
sim_run_until(int64_t end_ms, bool (*enough)(void))
{
    uint64_t in_this_ms = 0;
    while (heap_count > 0 && heap[0].at <= end_ms) {
        struct event event = heap_take();
        in_this_ms = event.at == storm.now_ms ? in_this_ms + 1 : 0;
        if (in_this_ms > SPIN) {
            broken("time stands still: %d events in one millisecond", SPIN);
        }
        storm.now_ms = event.at;
        if (event.process != NULL && (!event.process->up || event.process->life != event.life)) {
            continue;
        }
        if (event.process != NULL && event.process->paused_until > storm.now_ms) {
            event.at = event.process->paused_until;
            heap_add(event);
            continue;
        }
        storm.events++;
        event.run(event.owner, event.data);
        check_redis();
        if (enough != NULL && enough()) {
            return;
        }
    }
    if (enough == NULL) {
        storm.now_ms = end_ms;
    }
}

void
sim_clear(void)
{
    heap_count = 0;
    heap_order = 0;
    while (chunks != NULL) {
        struct chunk *next = chunks->next;
        if (n_spare < SPARE_CHUNKS && chunks->size == CHUNK_BYTES) {
            spare[n_spare++] = chunks; /* the pages that this world touched serve the next one */
        } else {
            free(chunks);
        }
        chunks = next;
    }
}

/* ---- words ---- */

void
trace_line(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    printf("%8lld ", (long long)storm.now_ms);
    vprintf(format, arguments); // NOLINT(clang-analyzer-valist.Uninitialized): it is
    printf("\n");
    va_end(arguments);
}

struct job_id
job_named(uint32_t job)
{
    return (struct job_id){ .bytes = { 1, 2, 3, [14] = (uint8_t)(job >> 8), [15] = (uint8_t)job } };
}

uint32_t
job_number(const struct job_id *id)
{
    uint32_t job = (uint32_t)id->bytes[14] << 8 | id->bytes[15];
    struct job_id same = job_named(job);
    return job < JOBS && memcmp(&same, id, sizeof same) == 0 ? job : 0;
}
