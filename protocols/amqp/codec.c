#include "protocols/amqp/codec.h"

#include "base/check.h"

/* ---- decoding: a reader that knows about packed bits (section 4.2.5.2) --------------------------------- */

struct decoder {
    struct reader r;
    uint8_t octet; /* of bits */
    uint8_t bits_left;
};

static inline amqp_octet get_octet(struct decoder *d)
{
    d->bits_left = 0;
    return reader_u8(&d->r);
}
static inline amqp_u16 get_u16(struct decoder *d)
{
    d->bits_left = 0;
    return reader_be16(&d->r);
}
static inline amqp_u32 get_u32(struct decoder *d)
{
    d->bits_left = 0;
    return reader_be32(&d->r);
}
static inline amqp_u64 get_u64(struct decoder *d)
{
    d->bits_left = 0;
    return reader_be64(&d->r);
}
static inline amqp_bit get_bit(struct decoder *d)
{
    bool bit;

    if (d->bits_left == 0) {
        d->octet = reader_u8(&d->r);
        d->bits_left = 8;
    }
    bit = d->octet & 1;
    d->octet >>= 1;
    d->bits_left--;
    return bit;
}
static inline amqp_shortstr get_shortstr(struct decoder *d)
{
    d->bits_left = 0;
    return reader_slice(&d->r, reader_u8(&d->r));
}
static inline amqp_longstr get_longstr(struct decoder *d)
{
    d->bits_left = 0;
    return reader_slice(&d->r, reader_be32(&d->r));
}
static inline amqp_table get_table(struct decoder *d)
{
    struct slice table = get_longstr(d);

    if (table.len != 0 && amqp_table_check(table) < 0)
        d->r.bad = 1;
    return table;
}

/* ---- encoding ------------------------------------------------------------------------------------------ */

struct encoder {
    struct buf *out;
    uint8_t bits; /* used in the last octet; 0: it is full or none is open */
};

static inline void put_octet(struct encoder *e, amqp_octet v)
{
    e->bits = 0;
    buf_put_u8(e->out, v);
}
static inline void put_u16(struct encoder *e, amqp_u16 v)
{
    e->bits = 0;
    buf_put_be16(e->out, v);
}
static inline void put_u32(struct encoder *e, amqp_u32 v)
{
    e->bits = 0;
    buf_put_be32(e->out, v);
}
static inline void put_u64(struct encoder *e, amqp_u64 v)
{
    e->bits = 0;
    buf_put_be64(e->out, v);
}
static inline void put_bit(struct encoder *e, amqp_bit v)
{
    if (e->bits == 0)
        buf_put_u8(e->out, 0);
    e->out->data[e->out->len - 1] |= (uint8_t)(v << e->bits);
    e->bits = (e->bits + 1) & 7;
}
static inline void put_shortstr(struct encoder *e, amqp_shortstr v)
{
    CHECK(v.len <= 255);
    put_octet(e, (uint8_t)v.len);
    buf_put_slice(e->out, v);
}
static inline void put_longstr(struct encoder *e, amqp_longstr v)
{
    put_u32(e, (uint32_t)v.len);
    buf_put_slice(e->out, v);
}
static inline void put_table(struct encoder *e, amqp_table v)
{
    put_longstr(e, v);
}

static size_t method_frame_begin(struct buf *out, uint16_t channel, uint32_t id)
{
    size_t start = out->len;

    amqp_put_frame_header(out, AMQP_FRAME_METHOD, channel, 0);
    buf_put_be32(out, id);
    return start;
}

static void method_frame_end(struct buf *out, size_t start)
{
    be32_put(out->data + start + 3, (uint32_t)(out->len - start - AMQP_FRAME_HEADER));
    buf_put_u8(out, AMQP_FRAME_END);
}

/* ---- one pair of functions a row ----------------------------------------------------------------------- */

#define F(type, name) ret->name = get_##type(&d);
#define CLIENT(class, class_id, method, method_id, sync, fields)                                             \
    int amqp_get_##class##_##method(struct slice fields_bytes, struct amqp_##class##_##method *ret)          \
    {                                                                                                        \
        struct decoder d = {.r = reader_of(fields_bytes)};                                                   \
                                                                                                             \
        (void)ret;                                                                                           \
        fields;                                                                                              \
        return d.r.bad || reader_left(&d.r) != 0 ? ERR_MALFORMED : 0;                                        \
    }
#define SERVER CLIENT
#define BOTH CLIENT
#include "protocols/amqp/methods.def"
#undef F
#undef CLIENT
#undef SERVER
#undef BOTH

#define F(type, name) put_##type(&e, m->name);
#define CLIENT(class, class_id, method, method_id, sync, fields)                                             \
    void amqp_put_##class##_##method(struct buf *out, uint16_t channel,                                      \
                                     const struct amqp_##class##_##method *m)                                \
    {                                                                                                        \
        struct encoder e = {.out = out};                                                                     \
        size_t start = method_frame_begin(out, channel, AMQP_ID_##class##_##method);                         \
                                                                                                             \
        (void)m;                                                                                             \
        (void)e;                                                                                             \
        fields;                                                                                              \
        method_frame_end(out, start);                                                                        \
    }
#define SERVER CLIENT
#define BOTH CLIENT
#include "protocols/amqp/methods.def"
#undef F
#undef CLIENT
#undef SERVER
#undef BOTH

#define ROW(class, class_id, method, method_id, sync, client, server)                                        \
    {(class_id) << 16 | (method_id), #class "." #method, sync, client, server},
#define CLIENT(class, class_id, method, method_id, sync, fields)                                             \
    ROW(class, class_id, method, method_id, sync, true, false)
#define SERVER(class, class_id, method, method_id, sync, fields)                                             \
    ROW(class, class_id, method, method_id, sync, false, true)
#define BOTH(class, class_id, method, method_id, sync, fields)                                               \
    ROW(class, class_id, method, method_id, sync, true, true)
const struct amqp_method_info amqp_methods[] = {
#include "protocols/amqp/methods.def"
};
#undef ROW
#undef CLIENT
#undef SERVER
#undef BOTH
const size_t amqp_method_count = ARRAY_LEN(amqp_methods);

const struct amqp_method_info *amqp_method_find(uint32_t id)
{
    for (size_t i = 0; i < amqp_method_count; i++) {
        if (amqp_methods[i].id == id)
            return &amqp_methods[i];
    }
    return NULL;
}

/* ---- replies ------------------------------------------------------------------------------------------- */

const char *amqp_reply_name(unsigned code)
{
    switch (code) {
#define X(name, number, level)                                                                               \
    case number:                                                                                             \
        return #name;
#include "protocols/amqp/replies.def"
#undef X
    default:
        return NULL;
    }
}

bool amqp_reply_is_hard(unsigned code)
{
    enum { CHANNEL, CONNECTION };
    switch (code) {
#define X(name, number, level)                                                                               \
    case number:                                                                                             \
        return (level) == CONNECTION;
#include "protocols/amqp/replies.def"
#undef X
    default:
        return true;
    }
}

/* ---- frames -------------------------------------------------------------------------------------------- */

ssize_t amqp_frame_read(struct slice in, uint32_t frame_max, struct amqp_frame *ret)
{
    uint32_t size;

    if (in.len < AMQP_FRAME_HEADER)
        return 0;
    ret->type = in.data[0];
    ret->channel = be16_get(in.data + 1);
    size = be32_get(in.data + 3);
    if (frame_max != 0 && size > frame_max) {
        ret->payload = slice_of(NULL, size);
        return ERR_TOO_LARGE;
    }
    if (in.len - AMQP_FRAME_HEADER < (size_t)size + 1)
        return 0;
    ret->payload = slice_of(in.data + AMQP_FRAME_HEADER, size);
    if (in.data[AMQP_FRAME_HEADER + size] != AMQP_FRAME_END)
        return ERR_MALFORMED;
    return AMQP_FRAME_OVERHEAD + (ssize_t)size;
}

void amqp_put_frame_header(struct buf *out, enum amqp_frame_type type, uint16_t channel, uint32_t size)
{
    uint8_t *p = buf_reserve(out, AMQP_FRAME_HEADER);

    p[0] = (uint8_t)type;
    be16_put(p + 1, channel);
    be32_put(p + 3, size);
    buf_advance(out, AMQP_FRAME_HEADER);
}

void amqp_put_heartbeat(struct buf *out)
{
    amqp_put_frame_header(out, AMQP_FRAME_HEARTBEAT, 0, 0);
    buf_put_u8(out, AMQP_FRAME_END);
}

/* ---- content ------------------------------------------------------------------------------------------- */

int amqp_properties_read(struct slice raw, struct amqp_properties *ret)
{
    struct decoder d = {.r = reader_of(raw)};

    *ret = (struct amqp_properties){.raw = raw};
    ret->flags = reader_be16(&d.r);
    /* Bit 0 would announce a further flag word, bit 1 is unused: class basic has neither. */
    if (ret->flags & 3)
        return ERR_MALFORMED;
#define P(bit, ptype, pname)                                                                                 \
    if (ret->flags & (1u << (bit)))                                                                          \
        ret->pname = get_##ptype(&d);
#include "protocols/amqp/properties.def"
#undef P
    return d.r.bad || reader_left(&d.r) != 0 ? ERR_MALFORMED : 0;
}

void amqp_properties_write(const struct amqp_properties *p, struct buf *out)
{
    struct encoder e = {.out = out};

    buf_put_be16(out, p->flags);
#define P(bit, ptype, pname)                                                                                 \
    if (p->flags & (1u << (bit)))                                                                            \
        put_##ptype(&e, p->pname);
#include "protocols/amqp/properties.def"
#undef P
}

int amqp_content_header_read(struct slice payload, uint16_t *ret_class, uint64_t *ret_body_size,
                             struct slice *ret_properties)
{
    struct reader r = reader_of(payload);

    *ret_class = reader_be16(&r);
    (void)reader_be16(&r); /* weight: unused, must be zero, ignored */
    *ret_body_size = reader_be64(&r);
    *ret_properties = slice_of(r.p, reader_left(&r));
    return r.bad || ret_properties->len < 2 ? ERR_MALFORMED : 0;
}

void amqp_put_content_header(struct buf *out, uint16_t channel, uint64_t body_size, struct slice properties)
{
    amqp_put_frame_header(out, AMQP_FRAME_CONTENT_HEADER, channel, (uint32_t)(12 + properties.len));
    buf_put_be32(out, AMQP_CLASS_BASIC << 16);
    buf_put_be64(out, body_size);
    buf_put_slice(out, properties);
    buf_put_u8(out, AMQP_FRAME_END);
}

void amqp_put_content(struct buf *out, uint16_t channel, uint32_t frame_max, struct slice properties,
                      struct slice body)
{
    size_t room = frame_max == 0 ? SIZE_MAX : frame_max - AMQP_FRAME_OVERHEAD;

    amqp_put_content_header(out, channel, body.len, properties);
    for (size_t at = 0; at < body.len;) {
        size_t n = MIN_OF(body.len - at, room);

        amqp_put_frame_header(out, AMQP_FRAME_BODY, channel, (uint32_t)n);
        buf_put(out, body.data + at, n);
        buf_put_u8(out, AMQP_FRAME_END);
        at += n;
    }
}
