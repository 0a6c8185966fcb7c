#pragma once
/*
 * device_error — whether a failure tells that the process has lost its device: then every further
 * job of it fails, until it is started anew.
 */
#include <stdbool.h>

enum { DEVICE_ERROR_LOOK = 512 }; /* bytes of a message that are looked at */

/* `message` as a server told it. Too little memory is no such error: the next, smaller job is
 * drawn. Words that a prompt may hold are among them: ask only of what an instance says of itself.
 */
bool device_error_is(const char *message);
