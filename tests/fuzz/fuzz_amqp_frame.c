/* AMQP's frames, methods, content headers and tables: whatever arrives is refused or read, nothing is read
 * beyond the input, and what was read and written again reads the same. */
#include <stdlib.h>

#include "base/check.h"
#include "protocols/amqp/codec.h"
#include "protocols/amqp/route.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void method(const struct amqp_frame *f, struct buf *first, struct buf *second)
{
    struct slice fields;
    uint32_t id;

    if (f->payload.len < 4)
        return;
    id = be32_get(f->payload.data);
    fields = slice_of(f->payload.data + 4, f->payload.len - 4);
    switch (id) {
#define CLIENT(class, class_id, name, method_id, sync, list)                                                 \
    case AMQP_ID_##class##_##name: {                                                                         \
        struct amqp_##class##_##name m;                                                                      \
        struct amqp_frame again;                                                                             \
                                                                                                             \
        if (amqp_get_##class##_##name(fields, &m) < 0)                                                       \
            return;                                                                                          \
        buf_clear(first);                                                                                    \
        buf_clear(second);                                                                                   \
        amqp_put_##class##_##name(first, f->channel, &m);                                                    \
        CHECK(amqp_frame_read(buf_slice(first), 0, &again) == (ssize_t)first->len);                          \
        CHECK(amqp_get_##class##_##name(slice_of(again.payload.data + 4, again.payload.len - 4), &m) == 0);  \
        amqp_put_##class##_##name(second, f->channel, &m);                                                   \
        CHECK(slice_eq(buf_slice(first), buf_slice(second)));                                                \
        return;                                                                                              \
    }
#define SERVER CLIENT
#define BOTH CLIENT
#include "protocols/amqp/methods.def"
    }
}

static void content_header(const struct amqp_frame *f, struct buf *out)
{
    struct amqp_properties p, again;
    struct slice raw;
    uint64_t body_size;
    uint16_t class_id;
    const char *name, *type;
    struct amqp_table_iter it;
    struct amqp_value v;

    if (amqp_content_header_read(f->payload, &class_id, &body_size, &raw) < 0 ||
        amqp_properties_read(raw, &p) < 0)
        return;
    buf_clear(out);
    amqp_properties_write(&p, out);
    CHECK(slice_eq(buf_slice(out), raw));
    CHECK(amqp_properties_read(buf_slice(out), &again) == 0 && again.flags == p.flags);
    (void)amqp_route_check_cc(p.headers, &name, &type);
    (void)amqp_headers_match(p.headers, p.headers);
    buf_clear(out);
    amqp_table_copy_without(out, p.headers, "BCC");
    CHECK(amqp_table_check(buf_slice(out)) == 0);
    amqp_table_iter_init(&it, p.headers);
    while (amqp_table_next(&it, &raw, &v)) {
        buf_clear(out);
        amqp_value_text(&v, out);
    }
    CHECK(reader_left(&it.r) == 0 && !it.r.bad);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf first = {0}, second = {0};
    size_t at = 0;

    while (at < size) {
        struct amqp_frame f;
        ssize_t n = amqp_frame_read(slice_of(data + at, size - at), 131072, &f);

        if (n <= 0)
            break;
        if (f.type == AMQP_FRAME_METHOD)
            method(&f, &first, &second);
        else if (f.type == AMQP_FRAME_CONTENT_HEADER)
            content_header(&f, &first);
        at += (size_t)n;
    }
    buf_fini(&first);
    buf_fini(&second);
    return 0;
}
