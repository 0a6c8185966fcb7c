#pragma once
/*
 * loop — joins the agent core with its edges: what an edge says becomes an event, the core steps,
 * and its effects are performed in order. Decides nothing itself.
 *
 *     Redis (heartbeat)  broker (link)  instances (supervisor)  gateways (upload)  helper thread
 *              \               |                |                     |              /
 *               `--------------+------> agent_step() -> effects ------+-------------'
 */
#include "common/reactor.h"
#include "worker/options.h"

struct loop;

/* Opens the edges and starts the instances. 0, or -errno (logged). options are borrowed for life.
 */
int loop_new(struct loop **out, struct reactor *reactor, const struct options *options);
/* Kills the instances that still run. */
void loop_destroy(struct loop **self_p);
/* An orderly stop: pulls nothing more, finishes what is held (at most LIMIT_DRAIN_MS), says BYE,
 * stops the instances and the reactor with 0. For reactor_on_stop(). */
void loop_drain(void *loop);
