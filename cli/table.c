#include "cli/table.h"
#include <assert.h>
#include <stdio.h>

static void
cell_print(const char *text, uint32_t width, bool last)
{
    printf("%s%*s", text, last ? 0 : (int)(width - text_width(text) + 2), "");
}

void
table_print(const struct table *self, const struct terminal *terminal)
{
    uint32_t widths[TABLE_COLUMNS];
    const char *plain = terminal_style(terminal, STYLE_PLAIN);
    assert(self->n_columns <= TABLE_COLUMNS);
    for (uint32_t c = 0; c < self->n_columns; c++) {
        widths[c] = text_width(self->heads[c]);
        for (size_t r = 0; r < self->n_rows; r++) {
            uint32_t width = text_width(self->rows[r].cells[c]);
            widths[c] = width > widths[c] ? width : widths[c];
        }
    }
    printf("%s", terminal_style(terminal, STYLE_BOLD));
    for (uint32_t c = 0; c < self->n_columns; c++) {
        cell_print(self->heads[c], widths[c], c + 1 == self->n_columns);
    }
    printf("%s\n", plain);
    for (size_t r = 0; r < self->n_rows; r++) {
        for (uint32_t c = 0; c < self->n_columns; c++) {
            bool styled = c == self->styled;
            printf("%s", styled ? terminal_style(terminal, self->rows[r].style) : "");
            cell_print(self->rows[r].cells[c], widths[c], c + 1 == self->n_columns);
            printf("%s", styled ? plain : "");
        }
        printf("\n");
    }
}
