#include "broker/order.h"
#include <assert.h>

static bool
key_before(uint64_t key, uint64_t sequence, const struct job *than)
{
    return key != than->key ? key < than->key : sequence < than->header.sequence;
}

bool
order_before(const struct job *a, const struct job *b)
{
    return key_before(a->key, a->header.sequence, b);
}

struct ahead
order_total(const struct jobs *jobs, uint32_t root)
{
    if (root == JOB_NOBODY) {
        return (struct ahead){ 0 };
    }
    const struct job *job = job_at(jobs, root);
    return (struct ahead){ job->node.size, job->node.cost_sum };
}

static void
node_sum(struct jobs *jobs, uint32_t index)
{
    struct job *job = job_at(jobs, index);
    struct ahead left = order_total(jobs, job->node.left);
    struct ahead right = order_total(jobs, job->node.right);
    job->node.size = left.jobs + right.jobs + 1;
    job->node.cost_sum = left.cost + right.cost + job->cost;
}

/* Splits into what stands before (key, sequence) and the rest. Depth is O(log n) by priorities. */
static void
tree_split(struct jobs *jobs, uint32_t root, const struct job *at, uint32_t *before,
           uint32_t *after)
{
    if (root == JOB_NOBODY) {
        *before = *after = JOB_NOBODY;
        return;
    }
    struct job *job = job_at(jobs, root);
    if (order_before(job, at)) {
        tree_split(jobs, job->node.right, at, &job->node.right, after);
        *before = root;
    } else {
        tree_split(jobs, job->node.left, at, before, &job->node.left);
        *after = root;
    }
    node_sum(jobs, root);
}

/* Joins two trees, all of `before` standing before all of `after`. */
static uint32_t
tree_join(struct jobs *jobs, uint32_t before, uint32_t after)
{
    if (before == JOB_NOBODY || after == JOB_NOBODY) {
        return before == JOB_NOBODY ? after : before;
    }
    struct job *a = job_at(jobs, before);
    struct job *b = job_at(jobs, after);
    if (a->node.priority > b->node.priority) {
        a->node.right = tree_join(jobs, a->node.right, after);
        node_sum(jobs, before);
        return before;
    }
    b->node.left = tree_join(jobs, before, b->node.left);
    node_sum(jobs, after);
    return after;
}

void
order_insert(struct jobs *jobs, uint32_t *root, uint32_t index)
{
    struct job *job = job_at(jobs, index);
    job->node.left = job->node.right = JOB_NOBODY;
    job->node.priority = table_hash(&job->header.sequence, sizeof job->header.sequence);
    node_sum(jobs, index);
    uint32_t before;
    uint32_t after;
    tree_split(jobs, *root, job, &before, &after);
    *root = tree_join(jobs, tree_join(jobs, before, index), after);
}

void
order_remove(struct jobs *jobs, uint32_t *root, uint32_t index)
{
    struct job *job = job_at(jobs, index);
    if (*root == index) {
        *root = tree_join(jobs, job->node.left, job->node.right);
        return;
    }
    assert(*root != JOB_NOBODY);
    struct job *top = job_at(jobs, *root);
    order_remove(jobs, order_before(job, top) ? &top->node.left : &top->node.right, index);
    node_sum(jobs, *root);
}

uint32_t
order_at(const struct jobs *jobs, uint32_t root, uint32_t rank)
{
    while (root != JOB_NOBODY) {
        const struct job *job = job_at(jobs, root);
        uint32_t left = order_total(jobs, job->node.left).jobs;
        if (rank == left) {
            return root;
        }
        if (rank < left) {
            root = job->node.left;
        } else {
            rank -= left + 1;
            root = job->node.right;
        }
    }
    return JOB_NOBODY;
}

struct ahead
order_ahead(const struct jobs *jobs, uint32_t root, uint64_t key, uint64_t sequence)
{
    struct ahead sum = { 0 };
    while (root != JOB_NOBODY) {
        const struct job *job = job_at(jobs, root);
        if (key_before(key, sequence, job) ||
            (key == job->key && sequence == job->header.sequence)) {
            root = job->node.left;
            continue;
        }
        struct ahead left = order_total(jobs, job->node.left);
        sum.jobs += left.jobs + 1;
        sum.cost += left.cost + job->cost;
        root = job->node.right;
    }
    return sum;
}
