#pragma once
/*
 * port — TCP ports for started instances.
 */
#include <stdbool.h>
#include <stdint.h>

/* Finds n ports that nobody listens on, all different. 0 or -errno. They are free when this
 * returns, not reserved: who comes first has them. */
int ports_pick(uint16_t *out, uint32_t n);
/* True if an instance could listen on it, on any address. */
bool port_is_free(uint16_t port);
/* Who listens on the port, for people: "pid 4711 (python3)", "nobody we may see". */
void port_holder(uint16_t port, char *out, uint32_t size);
/* The inode of the socket that listens on it; 0: none. Reads the table of all connections. */
uint64_t port_listener(uint16_t port);
