#pragma once
/*
 * scope — CLEANUP(f): calls f(&variable) when the variable leaves its scope.
 *
 * f is a destructor `void f(T **self_p)` that frees *self_p and sets it to NULL; NULL is fine. A
 * function that hands its object to the caller sets the local to NULL after `*out = local`.
 */
#define CLEANUP(f) __attribute__((cleanup(f)))

#define ARRAY_LENGTH(a) (sizeof(a) / sizeof((a)[0]))
