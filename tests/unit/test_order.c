#include "broker/order.h"
#include "common/scope.h"
#include <criterion/criterion.h>
#include <stdlib.h>

static uint32_t
job_with(struct jobs *jobs, uint64_t key, uint64_t sequence, uint32_t cost)
{
    struct job_id id = { 0 };
    memcpy(id.bytes, &sequence, sizeof sequence);
    uint32_t index = jobs_add(jobs, &id, (struct slice){ 0 });
    cr_assert_neq(index, JOB_NOBODY);
    job_at(jobs, index)->key = key;
    job_at(jobs, index)->header.sequence = sequence;
    job_at(jobs, index)->cost = cost;
    return index;
}

static uint32_t
depth(const struct jobs *jobs, uint32_t root)
{
    if (root == JOB_NOBODY) {
        return 0;
    }
    uint32_t left = depth(jobs, job_at(jobs, root)->node.left);
    uint32_t right = depth(jobs, job_at(jobs, root)->node.right);
    return 1 + (left > right ? left : right);
}

Test(order, an_empty_tree_has_nobody)
{
    CLEANUP(jobs_clear) struct jobs jobs;
    jobs_setup(&jobs);
    cr_assert_eq(order_at(&jobs, JOB_NOBODY, 0), JOB_NOBODY);
    cr_assert_eq(order_total(&jobs, JOB_NOBODY).jobs, 0);
    cr_assert_eq(order_ahead(&jobs, JOB_NOBODY, 5, 5).jobs, 0);
}

Test(order, equal_keys_stand_in_order_of_submit)
{
    CLEANUP(jobs_clear) struct jobs jobs;
    jobs_setup(&jobs);
    uint32_t root = JOB_NOBODY;
    uint32_t third = job_with(&jobs, 7, 3, 1);
    uint32_t first = job_with(&jobs, 7, 1, 1);
    uint32_t second = job_with(&jobs, 7, 2, 1);
    order_insert(&jobs, &root, third);
    order_insert(&jobs, &root, first);
    order_insert(&jobs, &root, second);
    cr_assert_eq(order_at(&jobs, root, 0), first);
    cr_assert_eq(order_at(&jobs, root, 1), second);
    cr_assert_eq(order_at(&jobs, root, 2), third);
    cr_assert_eq(order_at(&jobs, root, 3), JOB_NOBODY);
}

Test(order, ranks_and_sums_agree_with_a_sorted_list_while_jobs_come_and_go)
{
    enum { N = 300 };
    CLEANUP(jobs_clear) struct jobs jobs;
    jobs_setup(&jobs);
    uint32_t root = JOB_NOBODY;
    uint32_t in[N];
    uint32_t n = 0;
    unsigned seed = 4711;
    for (uint64_t round = 1; round < 4000; round++) {
        if (n < N && (n == 0 || rand_r(&seed) % 5 < 3)) {
            uint32_t index =
                job_with(&jobs, (uint64_t)(rand_r(&seed) % 50), round, 1 + rand_r(&seed) % 9);
            order_insert(&jobs, &root, index);
            uint32_t at = n++;
            for (; at > 0 && order_before(job_at(&jobs, index), job_at(&jobs, in[at - 1])); at--) {
                in[at] = in[at - 1];
            }
            in[at] = index;
        } else {
            uint32_t at = rand_r(&seed) % n;
            order_remove(&jobs, &root, in[at]);
            jobs_remove(&jobs, in[at]);
            memmove(&in[at], &in[at + 1], (--n - at) * sizeof in[0]);
        }
        uint64_t cost = 0;
        for (uint32_t i = 0; i < n; i++) {
            const struct job *job = job_at(&jobs, in[i]);
            struct ahead ahead = order_ahead(&jobs, root, job->key, job->header.sequence);
            cr_assert_eq(order_at(&jobs, root, i), in[i]);
            cr_assert_eq(ahead.jobs, i);
            cr_assert_eq(ahead.cost, cost);
            cost += job->cost;
        }
        cr_assert_eq(order_total(&jobs, root).jobs, n);
        cr_assert_eq(order_total(&jobs, root).cost, cost);
    }
}

Test(order, a_hundred_thousand_jobs_in_order_make_a_shallow_tree)
{
    CLEANUP(jobs_clear) struct jobs jobs;
    jobs_setup(&jobs);
    uint32_t root = JOB_NOBODY;
    for (uint32_t i = 1; i <= 100000; i++) {
        order_insert(&jobs, &root, job_with(&jobs, i, i, 1));
    }
    cr_assert_leq(depth(&jobs, root), 60, "depth %u; 17 is perfect", depth(&jobs, root));
}
