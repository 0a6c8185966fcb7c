#pragma once
/*
 * table — lines of cells under bold heads, each column as wide as its widest cell.
 */
#include "cli/terminal.h"

enum { TABLE_CELL = 96, TABLE_COLUMNS = 8 };

struct table_row {
    char cells[TABLE_COLUMNS][TABLE_CELL]; /* clean text: text_fit() */
    enum style style;                      /* of the table's styled column */
};

struct table {
    const char *const *heads;
    uint32_t n_columns; /* at most TABLE_COLUMNS */
    uint32_t styled;    /* the column that is shown in its row's style; n_columns: none */
    const struct table_row *rows;
    size_t n_rows;
};

/* Prints it on standard output. */
void table_print(const struct table *self, const struct terminal *terminal);
