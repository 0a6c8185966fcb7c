#pragma once
/*
 * arguments — the one short flag of `drawbar`: -o FILE and -oFILE are --output FILE.
 */

/* A copy of argv that config_load() understands; free() it. Its strings live as long as argv and
 * the copy do. */
char **arguments_long(int argc, char **argv);
