#include "log/effect.h"

#include "base/check.h"
#include "base/err.h"

struct kind_info {
    const char *name;
    unsigned since;
};

static const struct kind_info kinds[256] = {
#define X(name, number, since, text) [number] = {#name, since},
#include "log/kinds.def"
#undef X
};

const char *effect_kind_name(unsigned kind)
{
    return kind < ARRAY_LEN(kinds) ? kinds[kind].name : NULL;
}

unsigned effect_kind_since(unsigned kind)
{
    return kind < ARRAY_LEN(kinds) ? kinds[kind].since : 0;
}

void effect_add_parts(struct effects *fx, enum effect_kind kind, uint32_t db, struct slice name,
                      const struct slice *parts, size_t count)
{
    uint8_t head[1 + VARINT_MAX];
    size_t n = 1;

    head[0] = (uint8_t)kind;
    n += uvarint_put(head + 1, db);
    batch_add_parts(fx->batch, fx->now_ms, slice_of(head, n), name, parts, count);
}

void effect_add(struct effects *fx, enum effect_kind kind, uint32_t db, struct slice name, struct slice value)
{
    effect_add_parts(fx, kind, db, name, &value, 1);
}

int effect_read(const struct record *r, struct effect *ret)
{
    struct reader rd = reader_of(r->key);
    unsigned kind = reader_u8(&rd);
    uint64_t db = reader_uvarint(&rd);

    if (rd.bad || db > UINT32_MAX)
        return ERR_CORRUPT;
    if (effect_kind_since(kind) == 0 || effect_kind_since(kind) > EFFECT_LEVEL_MAX)
        return ERR_LEVEL;
    ret->kind = (enum effect_kind)kind;
    ret->db = (uint32_t)db;
    ret->name = slice_of(rd.p, reader_left(&rd));
    ret->value = r->value;
    return 0;
}
