/* Effects: what commands leave in a log. An effect is a v2 record whose key is kind (1 byte), database (uvarint), object name and whose value is
 * that kind's fields (kinds.def). All effects of one lock acquisition are one batch (P17); an engine adds to `struct effects`, the partition appends
 * it when it is left. Under the partition's lock. */
#ifndef GM_LOG_EFFECT_H
#define GM_LOG_EFFECT_H

#include <stdbool.h>
#include <stdint.h>

#include "log/batch.h"

enum effect_kind {
#define X(name, number, since, text) EFFECT_##name = number,
#include "log/kinds.def"
#undef X
};

#define EFFECT_LEVEL_MAX 2 /* the newest feature level this build writes and reads */

struct effects {
    struct batch_builder *batch; /* borrowed, the worker's */
    int64_t now_ms;              /* max(wall clock, last effect's time in that log), rule 10 */
    bool snapshot_running;       /* P18: shifting effects carry whole values */
};

/* A view of a decoded effect; slices borrow from the record. */
struct effect {
    enum effect_kind kind;
    uint32_t db;
    struct slice name;
    struct slice value;
};

/* The kind's name ("KV_DEL"), NULL for an unknown number. */
const char *effect_kind_name(unsigned kind);
/* The level that introduced it, 0 for an unknown number. */
unsigned effect_kind_since(unsigned kind);
/* Adds one effect. `value` parts are joined. */
void effect_add(struct effects *fx, enum effect_kind kind, uint32_t db, struct slice name, struct slice value);
void effect_add_parts(struct effects *fx, enum effect_kind kind, uint32_t db, struct slice name, const struct slice *parts,
                      size_t count);
/* ERR_CORRUPT for a short key, ERR_LEVEL for an unknown kind. */
int effect_read(const struct record *r, struct effect *ret);

#endif
