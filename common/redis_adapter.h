#pragma once
/*
 * redis_adapter — one hiredis connection on a libevent base: two events, added and taken away as
 * hiredis asks.
 */
#include <event2/event.h>
#include <hiredis/async.h>

/* Attaches a connection that was just made. 0 or -ENOMEM. The connection frees the adapter. */
int redis_adapter_attach(struct event_base *base, redisAsyncContext *connection);
/* Close-on-exec, and over TCP no delay and keep-alive. */
void redis_adapter_tune(const redisAsyncContext *connection, int over_tcp);
