#pragma once
/*
 * ports — may we listen there? Asked before anything starts, so that the answer is in plain words.
 */
#include <stdint.h>
#include <stdio.h>

enum { ADDRESS_TEXT = 96 };

/* 0: free now. -EADDRINUSE, -EADDRNOTAVAIL (not an address of this host), -EACCES, -EINVAL (no
 * address at all; a name is none). Port 0 asks for the address alone. */
int port_check(const char *host, uint16_t port);
/* `port` if it is free, else 0: any. */
uint16_t port_or_any(const char *host, uint16_t port);
/* "192.0.2.7:8080", "[2001:db8::7]:8080" */
void address_text(char out[ADDRESS_TEXT], const char *host, uint16_t port);
/* True for 0.0.0.0 and ::. */
int address_is_wildcard(const char *host);
/* Lists the addresses of this host that others may reach, as "  ADDR  (INTERFACE)" lines. */
void addresses_print(FILE *file);
