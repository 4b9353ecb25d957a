#include "protocols/amqp/table.h"

#include <inttypes.h>

#include "base/check.h"
#include "base/err.h"

static bool value_read(struct reader *r, struct amqp_value *v, unsigned depth);

/* Walks what is inside a table or array, checking everything. */
static bool inside_check(struct slice bytes, bool array, unsigned depth)
{
    struct reader r = reader_of(bytes);
    struct amqp_value v;

    if (depth > AMQP_TABLE_DEPTH_MAX)
        return false;
    while (reader_left(&r) > 0) {
        if (!array)
            reader_take(&r, reader_u8(&r));
        if (r.bad || !value_read(&r, &v, depth))
            return false;
    }
    return true;
}

/* depth 0: already checked, do not descend. */
static bool value_read(struct reader *r, struct amqp_value *v, unsigned depth)
{
    uint32_t bits32;
    uint64_t bits64;
    float single;

    *v = (struct amqp_value){.type = reader_u8(r)};
    switch (v->type) {
    case 'S':
    case 'x':
        v->bytes = reader_slice(r, reader_be32(r));
        break;
    case 'F':
    case 'A':
        v->bytes = reader_slice(r, reader_be32(r));
        if (depth > 0 && !r->bad && !inside_check(v->bytes, v->type == 'A', depth + 1))
            return false;
        break;
    case 'b':
        v->i = (int8_t)reader_u8(r);
        break;
    case 'B':
        v->i = reader_u8(r);
        break;
    case 't':
        v->i = reader_u8(r) != 0;
        break;
    case 's':
        v->i = (int16_t)reader_be16(r);
        break;
    case 'u':
        v->i = reader_be16(r);
        break;
    case 'I':
        v->i = (int32_t)reader_be32(r);
        break;
    case 'i':
        v->i = reader_be32(r);
        break;
    case 'l':
    case 'L':
    case 'T':
        v->i = (int64_t)reader_be64(r);
        break;
    case 'f':
        bits32 = reader_be32(r);
        memcpy(&single, &bits32, sizeof(single));
        v->f = single;
        break;
    case 'd':
        bits64 = reader_be64(r);
        memcpy(&v->f, &bits64, sizeof(v->f));
        break;
    case 'D':
        v->scale = reader_u8(r);
        v->i = reader_be32(r);
        break;
    case 'V':
        break;
    default:
        return false;
    }
    return !r->bad;
}

int amqp_table_check(struct slice table)
{
    return inside_check(table, false, 1) ? 0 : ERR_MALFORMED;
}

void amqp_table_iter_init(struct amqp_table_iter *it, struct slice table)
{
    it->r = reader_of(table);
    it->array = false;
}

void amqp_array_iter_init(struct amqp_table_iter *it, struct slice array)
{
    it->r = reader_of(array);
    it->array = true;
}

bool amqp_table_next(struct amqp_table_iter *it, struct slice *ret_name, struct amqp_value *ret_value)
{
    *ret_name = SLICE_NONE;
    if (reader_left(&it->r) == 0)
        return false;
    if (!it->array)
        *ret_name = reader_slice(&it->r, reader_u8(&it->r));
    return value_read(&it->r, ret_value, 0);
}

bool amqp_table_find_slice(struct slice table, struct slice name, struct amqp_value *ret_value)
{
    struct amqp_table_iter it;
    struct slice key;

    amqp_table_iter_init(&it, table);
    while (amqp_table_next(&it, &key, ret_value)) {
        if (slice_eq(key, name))
            return true;
    }
    *ret_value = (struct amqp_value){0};
    return false;
}

bool amqp_table_find(struct slice table, const char *name, struct amqp_value *ret_value)
{
    return amqp_table_find_slice(table, slice_str(name), ret_value);
}

bool amqp_value_is_integer(const struct amqp_value *v)
{
    return v->type != 0 && strchr("bBsuIilL", v->type) != NULL;
}

static bool is_float(const struct amqp_value *v)
{
    return v->type == 'f' || v->type == 'd';
}

bool amqp_value_eq(const struct amqp_value *a, const struct amqp_value *b)
{
    if (amqp_value_is_integer(a) && amqp_value_is_integer(b))
        return a->i == b->i;
    if (is_float(a) && is_float(b))
        return a->f == b->f;
    if (a->type != b->type)
        return false;
    return a->i == b->i && a->f == b->f && a->scale == b->scale && slice_eq(a->bytes, b->bytes);
}

const char *amqp_value_type_name(const struct amqp_value *v)
{
    switch (v->type) {
    case 'S':
        return "longstr";
    case 'I':
        return "signedint";
    case 'D':
        return "decimal";
    case 'T':
        return "timestamp";
    case 'F':
        return "table";
    case 'A':
        return "array";
    case 'b':
        return "byte";
    case 'B':
        return "unsignedbyte";
    case 's':
        return "short";
    case 'u':
        return "unsignedshort";
    case 'i':
        return "unsignedint";
    case 'l':
    case 'L':
        return "long";
    case 'd':
        return "double";
    case 'f':
        return "float";
    case 't':
        return "bool";
    case 'x':
        return "binary";
    case 'V':
        return "void";
    default:
        return "undefined";
    }
}

void amqp_value_text(const struct amqp_value *v, struct buf *out)
{
    switch (v->type) {
    case 'S':
    case 'x':
        buf_put(out, v->bytes.data, MIN_OF(v->bytes.len, 128));
        break;
    case 't':
        buf_put_str(out, v->i ? "true" : "false");
        break;
    case 'f':
    case 'd':
        buf_printf(out, "%g", v->f);
        break;
    case 'D':
        buf_printf(out, "{%u,%" PRId64 "}", v->scale, v->i);
        break;
    case 'F':
    case 'A':
        buf_printf(out, "[%zu octets]", v->bytes.len);
        break;
    case 'V':
    case 0:
        buf_put_str(out, "undefined");
        break;
    case 'T':
        buf_printf(out, "%" PRIu64, (uint64_t)v->i);
        break;
    default:
        buf_printf(out, "%" PRId64, v->i);
    }
}

static void put_name(struct buf *out, const char *name, char type)
{
    size_t n = strlen(name);

    CHECK(n < 256);
    buf_put_u8(out, (uint8_t)n);
    buf_put(out, name, n);
    buf_put_u8(out, (uint8_t)type);
}

void amqp_table_put_str(struct buf *out, const char *name, struct slice value)
{
    put_name(out, name, 'S');
    buf_put_be32(out, (uint32_t)value.len);
    buf_put_slice(out, value);
}

void amqp_table_put_bool(struct buf *out, const char *name, bool value)
{
    put_name(out, name, 't');
    buf_put_u8(out, value);
}

void amqp_table_put_i64(struct buf *out, const char *name, int64_t value)
{
    put_name(out, name, 'l');
    buf_put_be64(out, (uint64_t)value);
}

void amqp_table_put_i32(struct buf *out, const char *name, int32_t value)
{
    put_name(out, name, 'I');
    buf_put_be32(out, (uint32_t)value);
}

void amqp_table_put_table(struct buf *out, const char *name, struct slice table)
{
    put_name(out, name, 'F');
    buf_put_be32(out, (uint32_t)table.len);
    buf_put_slice(out, table);
}

void amqp_table_copy_without(struct buf *out, struct slice table, const char *name)
{
    struct amqp_table_iter it;
    struct amqp_value v;
    struct slice key;
    const uint8_t *from = table.data;

    amqp_table_iter_init(&it, table);
    while (amqp_table_next(&it, &key, &v)) {
        if (!slice_eq(key, slice_str(name)))
            buf_put(out, from, (size_t)(it.r.p - from));
        from = it.r.p;
    }
}
