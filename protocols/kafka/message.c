/* The codec over message tables; see message.h for the idea and the order of calls. */
#include "protocols/kafka/message.h"

#include "base/check.h"
#include "base/err.h"

/* ---- primitives --------------------------------------------------------------------------------------- */

/* Fixed sizes by type; 0 where the length is on the wire. */
static const uint8_t type_size[] = {
    [KAFKA_BOOL] = 1, [KAFKA_I8] = 1,  [KAFKA_I16] = 2, [KAFKA_U16] = 2,   [KAFKA_I32] = 4,
    [KAFKA_U32] = 4,  [KAFKA_I64] = 8, [KAFKA_F64] = 8, [KAFKA_UUID] = 16, [KAFKA_END_] = 0,
};

static int64_t read_compact_len(struct reader *r)
{
    uint64_t n = reader_uvarint(r);

    if (n == 0)
        return -1;
    if (n - 1 > reader_left(r)) {
        r->bad = 1;
        return 0;
    }
    return (int64_t)(n - 1);
}

static int64_t bound_len(struct reader *r, int64_t n)
{
    if (n < -1 || n > (int64_t)reader_left(r)) {
        r->bad = 1;
        return 0;
    }
    return n;
}

int64_t kafka_read_string_len(struct reader *r, bool flexible)
{
    return flexible ? read_compact_len(r) : bound_len(r, (int16_t)reader_be16(r));
}

int64_t kafka_read_len(struct reader *r, bool flexible)
{
    return flexible ? read_compact_len(r) : bound_len(r, (int32_t)reader_be32(r));
}

struct slice kafka_read_string(struct reader *r, bool flexible)
{
    int64_t n = kafka_read_string_len(r, flexible);

    return n < 0 ? SLICE_NONE : reader_slice(r, (size_t)n);
}

/* KIP-482: count, then (tag, size, bytes) each; unknown ones are passed over by their size. */
void kafka_skip_tags(struct reader *r)
{
    uint64_t n = reader_uvarint(r);

    while (n-- > 0 && !r->bad) {
        uint64_t size;

        (void)reader_uvarint(r);
        size = reader_uvarint(r);
        if (size > reader_left(r)) {
            r->bad = 1;
            return;
        }
        (void)reader_take(r, (size_t)size);
    }
}

void kafka_put_len(struct buf *b, int64_t n, bool flexible)
{
    if (flexible)
        buf_put_uvarint(b, (uint64_t)(n + 1));
    else
        buf_put_be32(b, (uint32_t)(int32_t)n);
}

void kafka_put_string(struct buf *b, struct slice s, bool flexible)
{
    if (flexible)
        buf_put_uvarint(b, s.data == NULL ? 0 : s.len + 1);
    else
        buf_put_be16(b, s.data == NULL ? 0xffff : (uint16_t)s.len);
    if (s.data != NULL)
        buf_put_slice(b, s);
}

static bool has_field(const struct kafka_field *f, int version)
{
    return version >= f->first && version <= f->last;
}

/* ---- checking ----------------------------------------------------------------------------------------- */

static void check_fields(const struct kafka_field *fields, int version, bool flexible, struct reader *r);

static void check_value(const struct kafka_field *f, int version, bool flexible, bool nullable,
                        struct reader *r)
{
    int64_t n;

    switch ((enum kafka_type)f->type) {
    case KAFKA_STRING:
        n = kafka_read_string_len(r, flexible);
        break;
    case KAFKA_BYTES:
    case KAFKA_RECORDS:
        n = kafka_read_len(r, flexible);
        break;
    case KAFKA_STRUCT_:
        if (nullable && (int8_t)reader_u8(r) < 0)
            return;
        check_fields(f->fields, version, flexible, r);
        return;
    default:
        (void)reader_take(r, type_size[f->type]);
        return;
    }
    if (n < 0 && !nullable)
        r->bad = 1;
    if (n > 0)
        (void)reader_take(r, (size_t)n);
}

static void check_field(const struct kafka_field *f, int version, bool flexible, struct reader *r)
{
    bool nullable = version >= f->null_first;

    if (f->arity == KAFKA_ARRAY_) {
        int64_t n = kafka_read_len(r, flexible);

        if (n < 0 && !nullable)
            r->bad = 1;
        for (; n > 0 && !r->bad; n--)
            check_value(f, version, flexible, false, r);
        return;
    }
    check_value(f, version, flexible, nullable, r);
}

static void check_fields(const struct kafka_field *fields, int version, bool flexible, struct reader *r)
{
    for (const struct kafka_field *f = fields; f->name != NULL && !r->bad; f++)
        if (has_field(f, version) && f->tag == KAFKA_UNTAGGED)
            check_field(f, version, flexible, r);
    if (flexible)
        kafka_skip_tags(r);
}

int kafka_check(const struct kafka_message *m, int version, struct slice body)
{
    struct reader r = reader_of(body);

    check_fields(m->fields, version, kafka_is_flexible(m, version), &r);
    return r.bad || reader_left(&r) != 0 ? ERR_MALFORMED : 0;
}

/* ---- reading ------------------------------------------------------------------------------------------ */

void kin_init(struct kin *in, const struct kafka_message *m, int version, struct slice body)
{
    in->r = reader_of(body);
    in->version = (int16_t)version;
    in->flexible = kafka_is_flexible(m, version);
    in->depth = 0;
    in->frames[0] = (struct kin_frame){m->fields, m->fields, 0, false};
}

/* Moves behind the fields before `name` and returns its row, NULL when this version lacks it (the position is
 * then behind the row as well). */
static const struct kafka_field *find_field(struct kin *in, const char *name)
{
    struct kin_frame *fr = &in->frames[in->depth];

    for (const struct kafka_field *f = fr->next; f->name != NULL; f++) {
        if (strcmp(f->name, name) == 0) {
            fr->next = f + 1;
            CHECK(f->tag == KAFKA_UNTAGGED);
            return has_field(f, in->version) ? f : NULL;
        }
        if (has_field(f, in->version) && f->tag == KAFKA_UNTAGGED)
            check_field(f, in->version, in->flexible, &in->r);
    }
    check_failed(name, __FILE__, __LINE__, "no such field behind the read position");
}

bool kin_bool(struct kin *in, const char *name, bool otherwise)
{
    return find_field(in, name) != NULL ? reader_u8(&in->r) != 0 : otherwise;
}
int8_t kin_i8(struct kin *in, const char *name, int8_t otherwise)
{
    return find_field(in, name) != NULL ? (int8_t)reader_u8(&in->r) : otherwise;
}
int16_t kin_i16(struct kin *in, const char *name, int16_t otherwise)
{
    return find_field(in, name) != NULL ? (int16_t)reader_be16(&in->r) : otherwise;
}
int32_t kin_i32(struct kin *in, const char *name, int32_t otherwise)
{
    return find_field(in, name) != NULL ? (int32_t)reader_be32(&in->r) : otherwise;
}
int64_t kin_i64(struct kin *in, const char *name, int64_t otherwise)
{
    return find_field(in, name) != NULL ? (int64_t)reader_be64(&in->r) : otherwise;
}
struct slice kin_string(struct kin *in, const char *name)
{
    return find_field(in, name) != NULL ? kafka_read_string(&in->r, in->flexible) : SLICE_NONE;
}
struct slice kin_bytes(struct kin *in, const char *name)
{
    int64_t n;

    if (find_field(in, name) == NULL)
        return SLICE_NONE;
    n = kafka_read_len(&in->r, in->flexible);
    return n < 0 ? SLICE_NONE : reader_slice(&in->r, (size_t)n);
}
const uint8_t *kin_uuid(struct kin *in, const char *name)
{
    return find_field(in, name) != NULL ? reader_take(&in->r, 16) : NULL;
}

int64_t kin_array(struct kin *in, const char *name)
{
    const struct kafka_field *f = find_field(in, name);
    int64_t n = f == NULL ? 0 : kafka_read_len(&in->r, in->flexible);
    struct kin_frame *fr;

    CHECK(in->depth + 1 < KAFKA_DEPTH);
    fr = &in->frames[++in->depth];
    fr->all = f == NULL ? NULL : f->fields;
    fr->next = NULL; /* before the first element */
    fr->left = n < 0 ? 0 : n;
    fr->absent = f == NULL;
    return n;
}

bool kin_item(struct kin *in)
{
    struct kin_frame *fr = &in->frames[in->depth];

    CHECK(in->depth > 0);
    if (fr->next != NULL) { /* passes over what is left of the element before */
        for (const struct kafka_field *f = fr->next; f->name != NULL; f++)
            if (has_field(f, in->version) && f->tag == KAFKA_UNTAGGED)
                check_field(f, in->version, in->flexible, &in->r);
        if (in->flexible)
            kafka_skip_tags(&in->r);
    }
    if (fr->left == 0 || in->r.bad) {
        in->depth--;
        return false;
    }
    fr->left--;
    fr->next = fr->all;
    return true;
}

int64_t kin_list(struct kin *in, const char *name)
{
    return find_field(in, name) != NULL ? kafka_read_len(&in->r, in->flexible) : 0;
}
int32_t kin_elem_i32(struct kin *in)
{
    return (int32_t)reader_be32(&in->r);
}
struct slice kin_elem_string(struct kin *in)
{
    return kafka_read_string(&in->r, in->flexible);
}

/* ---- writing ------------------------------------------------------------------------------------------ */

void kout_init(struct kout *o, const struct kafka_message *m, int version, struct buf *b)
{
    o->b = b;
    o->version = (int16_t)version;
    o->flexible = kafka_is_flexible(m, version);
    o->depth = 0;
    o->error = 0;
    o->error_count = 0;
    o->frames[0] =
        (struct kout_frame){.next = m->fields, .all = m->fields, .in_item = true, .elem = KAFKA_STRUCT_};
}

/* The row of the field that comes next, which must be `name`; NULL when nothing is to be written for it.
 * Tagged rows are passed over. */
static const struct kafka_field *next_field(struct kout *o, const char *name, enum kafka_type type,
                                            enum kafka_arity arity)
{
    struct kout_frame *fr = &o->frames[o->depth];
    const struct kafka_field *f;

    if (fr->mute)
        return NULL;
    CHECK(fr->in_item && fr->elem == KAFKA_STRUCT_);
    f = fr->next;
    while (f->name != NULL && f->tag != KAFKA_UNTAGGED)
        f++;
    if (f->name == NULL || strcmp(f->name, name) != 0)
        check_failed(name, __FILE__, __LINE__, f->name == NULL ? "no field is left" : f->name);
    CHECK(f->type == type && f->arity == arity);
    fr->next = f + 1;
    return has_field(f, o->version) ? f : NULL;
}

void kout_bool(struct kout *o, const char *name, bool v)
{
    if (next_field(o, name, KAFKA_BOOL, KAFKA_ONE_) != NULL)
        buf_put_u8(o->b, v);
}
void kout_i8(struct kout *o, const char *name, int8_t v)
{
    if (next_field(o, name, KAFKA_I8, KAFKA_ONE_) != NULL)
        buf_put_u8(o->b, (uint8_t)v);
}
void kout_i16(struct kout *o, const char *name, int16_t v)
{
    if (next_field(o, name, KAFKA_I16, KAFKA_ONE_) == NULL)
        return;
    buf_put_be16(o->b, (uint16_t)v);
    if (v != 0 && strcmp(name, "ErrorCode") == 0) {
        o->error = v;
        o->error_count++;
    }
}
void kout_i32(struct kout *o, const char *name, int32_t v)
{
    if (next_field(o, name, KAFKA_I32, KAFKA_ONE_) != NULL)
        buf_put_be32(o->b, (uint32_t)v);
}
void kout_i64(struct kout *o, const char *name, int64_t v)
{
    if (next_field(o, name, KAFKA_I64, KAFKA_ONE_) != NULL)
        buf_put_be64(o->b, (uint64_t)v);
}

static struct slice null_or_empty(const struct kout *o, const struct kafka_field *f, struct slice v)
{
    if (v.data == NULL && o->version < f->null_first)
        return slice_str("");
    return v;
}

void kout_string(struct kout *o, const char *name, struct slice v)
{
    const struct kafka_field *f = next_field(o, name, KAFKA_STRING, KAFKA_ONE_);

    if (f != NULL)
        kafka_put_string(o->b, null_or_empty(o, f, v), o->flexible);
}
void kout_str(struct kout *o, const char *name, const char *v)
{
    kout_string(o, name, v == NULL ? SLICE_NONE : slice_str(v));
}
void kout_bytes(struct kout *o, const char *name, struct slice v)
{
    const struct kafka_field *f = next_field(o, name, KAFKA_BYTES, KAFKA_ONE_);

    if (f == NULL)
        return;
    v = null_or_empty(o, f, v);
    kafka_put_len(o->b, v.data == NULL ? -1 : (int64_t)v.len, o->flexible);
    buf_put_slice(o->b, v);
}
void kout_uuid(struct kout *o, const char *name, const uint8_t *v)
{
    static const uint8_t zero[16];

    if (next_field(o, name, KAFKA_UUID, KAFKA_ONE_) != NULL)
        buf_put(o->b, v == NULL ? zero : v, 16);
}

static void open_frame(struct kout *o, const struct kafka_field *f, bool mute, uint8_t elem)
{
    struct kout_frame *fr;

    CHECK(o->depth + 1 < KAFKA_DEPTH);
    fr = &o->frames[++o->depth];
    *fr = (struct kout_frame){
        .all = f == NULL ? NULL : f->fields, .count_at = o->b->len, .mute = mute, .elem = elem};
    if (!mute)
        (void)(o->flexible ? buf_put_u8(o->b, 1) : buf_put_be32(o->b, 0));
}

/* Ends a structure: every untagged field of this version was written; its tag buffer is empty. */
static void close_struct(struct kout *o, struct kout_frame *fr)
{
    for (const struct kafka_field *f = fr->next; f->name != NULL; f++)
        if (has_field(f, o->version) && f->tag == KAFKA_UNTAGGED)
            check_failed(f->name, __FILE__, __LINE__, "field not written");
    if (o->flexible)
        buf_put_u8(o->b, 0);
    fr->in_item = false;
}

/* Puts the count in: compact counts are written in one byte first, so a long array moves its content up by
 * the bytes missing. */
static void close_frame(struct kout *o)
{
    struct kout_frame *fr = &o->frames[o->depth--];
    size_t more, len;

    if (fr->mute)
        return;
    if (!o->flexible) {
        be32_put(o->b->data + fr->count_at, fr->count);
        return;
    }
    more = uvarint_len((uint64_t)fr->count + 1) - 1;
    if (more != 0) {
        len = o->b->len - fr->count_at - 1;
        (void)buf_reserve(o->b, more);
        memmove(o->b->data + fr->count_at + 1 + more, o->b->data + fr->count_at + 1, len);
        o->b->len += more;
    }
    (void)uvarint_put(o->b->data + fr->count_at, (uint64_t)fr->count + 1);
}

void kout_array(struct kout *o, const char *name)
{
    bool muted = o->frames[o->depth].mute;
    const struct kafka_field *f = next_field(o, name, KAFKA_STRUCT_, KAFKA_ARRAY_);

    open_frame(o, f, muted || f == NULL, KAFKA_STRUCT_);
}

void kout_item(struct kout *o)
{
    struct kout_frame *fr = &o->frames[o->depth];

    CHECK(o->depth > 0);
    if (fr->mute)
        return;
    CHECK(fr->elem == KAFKA_STRUCT_);
    if (fr->in_item)
        close_struct(o, fr);
    fr->count++;
    fr->in_item = true;
    fr->next = fr->all;
}

void kout_array_end(struct kout *o)
{
    struct kout_frame *fr = &o->frames[o->depth];

    CHECK(o->depth > 0);
    if (!fr->mute && fr->in_item)
        close_struct(o, fr);
    close_frame(o);
}

void kout_array_null(struct kout *o, const char *name)
{
    struct kout_frame *fr = &o->frames[o->depth];
    const struct kafka_field *f;

    if (fr->mute)
        return;
    for (f = fr->next; f->name != NULL && f->tag != KAFKA_UNTAGGED; f++)
        ;
    CHECK(f->name != NULL);
    f = next_field(o, name, (enum kafka_type)f->type, KAFKA_ARRAY_);
    if (f != NULL)
        kafka_put_len(o->b, o->version >= f->null_first ? -1 : 0, o->flexible);
}

void kout_list(struct kout *o, const char *name)
{
    struct kout_frame *fr = &o->frames[o->depth];
    bool muted = fr->mute;
    const struct kafka_field *f = NULL;

    if (!muted) {
        for (f = fr->next; f->name != NULL && f->tag != KAFKA_UNTAGGED; f++)
            ;
        CHECK(f->name != NULL && f->type != KAFKA_STRUCT_);
        f = next_field(o, name, (enum kafka_type)f->type, KAFKA_ARRAY_);
    }
    open_frame(o, NULL, muted || f == NULL, f == NULL ? KAFKA_I32 : f->type);
}
void kout_elem_i32(struct kout *o, int32_t v)
{
    struct kout_frame *fr = &o->frames[o->depth];

    if (fr->mute)
        return;
    CHECK(fr->elem == KAFKA_I32);
    fr->count++;
    buf_put_be32(o->b, (uint32_t)v);
}
void kout_elem_string(struct kout *o, struct slice v)
{
    struct kout_frame *fr = &o->frames[o->depth];

    if (fr->mute)
        return;
    CHECK(fr->elem == KAFKA_STRING);
    fr->count++;
    kafka_put_string(o->b, v, o->flexible);
}
void kout_list_end(struct kout *o)
{
    CHECK(o->depth > 0);
    close_frame(o);
}

void kout_end(struct kout *o)
{
    CHECK(o->depth == 0);
    close_struct(o, &o->frames[0]);
}
