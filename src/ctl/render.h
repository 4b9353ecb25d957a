/* Answers for people: JSON as tables (libsmartcols) or as lists of facts. One thread. */
#ifndef GM_CTL_RENDER_H
#define GM_CTL_RENDER_H

#include <jansson.h>
#include <stdbool.h>

/* An array of objects as a table; `columns` as in verbs.def. Says so when there is nothing. */
void render_table(const json_t *rows, const char *columns, bool header);
/* An object as "name  value" lines; nested objects as name.name, arrays one line an element. */
void render_object(const json_t *object);

#endif
