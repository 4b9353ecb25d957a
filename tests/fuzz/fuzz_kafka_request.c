/* Kafka requests of every API and version: what kafka_check takes can be walked and written again to bytes
 * that pass as well; the hand-written parsers of Produce and Fetch take exactly what their tables take. The
 * input is a frame behind its size: key, version, correlation id, client id, tags, body. */
#include <stdint.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "protocols/kafka/session.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void copy_value(const struct kafka_field *f, int version, struct kin *in, struct kout *out)
{
    switch ((enum kafka_type)f->type) {
    case KAFKA_BOOL:
        kout_bool(out, f->name, kin_bool(in, f->name, false));
        break;
    case KAFKA_I8:
        kout_i8(out, f->name, kin_i8(in, f->name, 0));
        break;
    case KAFKA_I16:
        kout_i16(out, f->name, kin_i16(in, f->name, 0));
        break;
    case KAFKA_I32:
        kout_i32(out, f->name, kin_i32(in, f->name, 0));
        break;
    case KAFKA_I64:
        kout_i64(out, f->name, kin_i64(in, f->name, 0));
        break;
    case KAFKA_UUID:
        kout_uuid(out, f->name, kin_uuid(in, f->name));
        break;
    case KAFKA_STRING:
        kout_string(out, f->name, kin_string(in, f->name));
        break;
    case KAFKA_BYTES:
        kout_bytes(out, f->name, kin_bytes(in, f->name));
        break;
    case KAFKA_RECORDS: { /* the codec leaves writing them to its callers */
        struct slice s = kin_bytes(in, f->name);

        out->frames[out->depth].next = f + 1;
        if (version >= f->first && version <= f->last) {
            kafka_put_len(out->b, s.data == NULL ? -1 : (int64_t)s.len, out->flexible);
            buf_put_slice(out->b, s);
        }
        break;
    }
    default:
        UNREACHABLE();
    }
}

static void copy_fields(const struct kafka_field *fields, int version, struct kin *in, struct kout *out)
{
    for (const struct kafka_field *f = fields; f->name != NULL; f++) {
        int64_t n;

        if (f->tag != KAFKA_UNTAGGED)
            continue;
        if (f->arity != KAFKA_ARRAY_) {
            copy_value(f, version, in, out);
        } else if (f->type == KAFKA_STRUCT_) {
            n = kin_array(in, f->name);
            if (n < 0) {
                CHECK(!kin_item(in));
                kout_array_null(out, f->name);
                continue;
            }
            kout_array(out, f->name);
            while (kin_item(in)) {
                kout_item(out);
                copy_fields(f->fields, version, in, out);
            }
            kout_array_end(out);
        } else {
            n = kin_list(in, f->name);
            if (n < 0) {
                kout_array_null(out, f->name);
                continue;
            }
            kout_list(out, f->name);
            for (; n > 0; n--) {
                if (f->type == KAFKA_I32)
                    kout_elem_i32(out, kin_elem_i32(in));
                else
                    kout_elem_string(out, kin_elem_string(in));
            }
            kout_list_end(out);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct reader r = reader_of(slice_of(data, size));
    struct kafka_request rq = {0};
    struct buf copied = {0};
    struct kin in;
    struct kout out;
    int64_t id_len;
    int verdict;

    rq.api = kafka_api_find((int16_t)reader_be16(&r));
    rq.version = (int16_t)reader_be16(&r);
    (void)reader_be32(&r);
    if (r.bad || rq.api == NULL || rq.version < rq.api->first || rq.version > rq.api->last)
        return 0;
    id_len = kafka_read_string_len(&r, false);
    if (id_len >= 0)
        (void)reader_slice(&r, (size_t)id_len);
    rq.flexible = kafka_is_flexible(rq.api->request, rq.version);
    if (rq.flexible)
        kafka_skip_tags(&r);
    if (r.bad)
        return 0;
    rq.body = slice_of(r.p, reader_left(&r));
    rq.body_data = (uint8_t *)(uintptr_t)r.p; /* only looked at */
    verdict = kafka_check(rq.api->request, rq.version, rq.body);
    if (rq.api->key == KAFKA_API_PRODUCE)
        CHECK(kafka_produce_check(&rq) == verdict);
    if (rq.api->key == KAFKA_API_FETCH)
        CHECK(kafka_fetch_check(&rq) == verdict);
    if (verdict != 0)
        return 0;
    kin_init(&in, rq.api->request, rq.version, rq.body);
    kout_init(&out, rq.api->request, rq.version, &copied);
    copy_fields(rq.api->request->fields, rq.version, &in, &out);
    kout_end(&out);
    CHECK(!in.r.bad);
    CHECK(kafka_check(rq.api->request, rq.version, buf_slice(&copied)) == 0);
    buf_fini(&copied);
    return 0;
}
