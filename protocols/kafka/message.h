/* Messages of the Kafka protocol as tables of fields, and the one codec that reads and writes them.
 *
 * A message is an array of rows in the order of the wire: name, type, the versions that have the field, from
 * which version it may be null, and for tagged fields (KIP-482) the tag. From its first flexible version on,
 * lengths are compact (uvarint of length + 1, 0 = null) and every structure ends in a tag buffer. The rows
 * follow Apache Kafka's published message schema; messages/ holds a file an API.
 *
 * Reading is two steps. kafka_check walks the bytes once against the table: all lengths and counts are held
 * against the bytes that arrived, nothing may be left over. After that the kin_* functions walk the same
 * bytes and cannot fail; fields that the caller passes over, or that its version lacks, are skipped. Nothing
 * is allocated, so no count a peer sends sizes anything.
 *
 * Writing appends to a buf. The kout_* functions are called for every field of the table in order, whatever
 * the version; what the version lacks is dropped. A call out of order is a bug and aborts (the tests write
 * every version of every API). Arrays count themselves. Tagged fields are never written: what we answer needs
 * none yet, and a receiver takes their defaults.
 *
 * Pure; any thread. Strings that come out borrow from the request. */
#ifndef GM_KAFKA_MESSAGE_H
#define GM_KAFKA_MESSAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

enum kafka_type {
    KAFKA_BOOL,
    KAFKA_I8,
    KAFKA_I16,
    KAFKA_U16,
    KAFKA_I32,
    KAFKA_U32,
    KAFKA_I64,
    KAFKA_F64,
    KAFKA_UUID,    /* 16 bytes */
    KAFKA_STRING,  /* int16 length, or compact */
    KAFKA_BYTES,   /* int32 length, or compact */
    KAFKA_RECORDS, /* on the wire as bytes: record batches */
    KAFKA_STRUCT_,
    KAFKA_END_,
};

enum kafka_arity { KAFKA_ONE_, KAFKA_ARRAY_ };

#define KAFKA_ALL 32767
#define KAFKA_NEVER 32767
#define KAFKA_UNTAGGED (-1)

struct kafka_field {
    const char *name;
    uint8_t type;        /* enum kafka_type: of the elements when it is an array */
    uint8_t arity;       /* enum kafka_arity */
    int16_t first, last; /* versions that have it */
    int16_t null_first;  /* may be null from this version on */
    int16_t tag;
    const struct kafka_field *fields; /* of a structure */
};

#define KAFKA_FIELD(name, type, first, last)                                                                 \
    {                                                                                                        \
        name, KAFKA_T_##type, KAFKA_ONE_, first, last, KAFKA_NEVER, KAFKA_UNTAGGED, NULL                     \
    }
#define KAFKA_ARRAY(name, type, first, last, fields)                                                         \
    {                                                                                                        \
        name, KAFKA_T_##type, KAFKA_ARRAY_, first, last, KAFKA_NEVER, KAFKA_UNTAGGED, fields                 \
    }
#define KAFKA_STRUCT(name, first, last, fields)                                                              \
    {                                                                                                        \
        name, KAFKA_STRUCT_, KAFKA_ONE_, first, last, KAFKA_NEVER, KAFKA_UNTAGGED, fields                    \
    }
#define KAFKA_NULLABLE(name, arity, type, first, last, null_first, fields)                                   \
    {                                                                                                        \
        name, KAFKA_T_##type, KAFKA_##arity##_, first, last, null_first, KAFKA_UNTAGGED, fields              \
    }
#define KAFKA_TAGGED(name, arity, type, first, last, tag, fields)                                            \
    {                                                                                                        \
        name, KAFKA_T_##type, KAFKA_##arity##_, first, last, KAFKA_NEVER, tag, fields                        \
    }
#define KAFKA_END                                                                                            \
    {                                                                                                        \
        NULL, KAFKA_END_, KAFKA_ONE_, 0, 0, 0, 0, NULL                                                       \
    }

#define KAFKA_T_BOOL KAFKA_BOOL
#define KAFKA_T_I8 KAFKA_I8
#define KAFKA_T_I16 KAFKA_I16
#define KAFKA_T_I32 KAFKA_I32
#define KAFKA_T_I64 KAFKA_I64
#define KAFKA_T_UUID KAFKA_UUID
#define KAFKA_T_STRING KAFKA_STRING
#define KAFKA_T_BYTES KAFKA_BYTES
#define KAFKA_T_RECORDS KAFKA_RECORDS
#define KAFKA_T_STRUCT KAFKA_STRUCT_

struct kafka_message {
    const char *name;
    int16_t flexible; /* first flexible version, KAFKA_NEVER when there is none */
    const struct kafka_field *fields;
};

static inline bool kafka_is_flexible(const struct kafka_message *m, int version)
{
    return version >= m->flexible;
}

/* Whether `body` is exactly one message of this version. 0 or ERR_MALFORMED. */
int kafka_check(const struct kafka_message *m, int version, struct slice body);

/* ---- reading a checked message ------------------------------------------------------------------------ */
#define KAFKA_DEPTH 8

struct kin_frame {
    const struct kafka_field *next; /* the row at the read position */
    const struct kafka_field *all;
    int64_t left; /* further elements of the array whose elements these are */
    bool absent;  /* the version lacks the array: no elements */
};

struct kin {
    struct reader r;
    int16_t version;
    bool flexible;
    int depth;
    struct kin_frame frames[KAFKA_DEPTH];
};

void kin_init(struct kin *in, const struct kafka_message *m, int version, struct slice body);
/* A field by name; the default when this version lacks it. */
bool kin_bool(struct kin *in, const char *name, bool otherwise);
int8_t kin_i8(struct kin *in, const char *name, int8_t otherwise);
int16_t kin_i16(struct kin *in, const char *name, int16_t otherwise);
int32_t kin_i32(struct kin *in, const char *name, int32_t otherwise);
int64_t kin_i64(struct kin *in, const char *name, int64_t otherwise);
/* data == NULL: null, or not in this version. An empty string has data. */
struct slice kin_string(struct kin *in, const char *name);
struct slice kin_bytes(struct kin *in, const char *name);
/* 16 bytes, NULL when this version lacks it. */
const uint8_t *kin_uuid(struct kin *in, const char *name);
/* Opens an array of structures; returns the count, -1 for null, 0 when the version lacks it. Then `while
 * (kin_item(in))` goes through the elements; the false closes it. */
int64_t kin_array(struct kin *in, const char *name);
bool kin_item(struct kin *in);
/* Opens an array of plain values; returns the count, -1 for null; then that many kin_elem_*. */
int64_t kin_list(struct kin *in, const char *name);
int32_t kin_elem_i32(struct kin *in);
struct slice kin_elem_string(struct kin *in);

/* ---- writing ------------------------------------------------------------------------------------------ */
struct kout_frame {
    const struct kafka_field *next, *all;
    size_t count_at; /* where the array's count goes */
    uint32_t count;
    bool mute; /* within something this version lacks */
    bool in_item;
    uint8_t elem; /* type of a list's elements, KAFKA_STRUCT_ for an array's */
};

struct kout {
    struct buf *b; /* borrowed */
    int16_t version;
    bool flexible;
    int depth;
    int16_t error; /* the last field named ErrorCode that was not 0, and how many there were: for metrics */
    uint32_t error_count;
    struct kout_frame frames[KAFKA_DEPTH];
};

void kout_init(struct kout *o, const struct kafka_message *m, int version, struct buf *b);
void kout_bool(struct kout *o, const char *name, bool v);
void kout_i8(struct kout *o, const char *name, int8_t v);
void kout_i16(struct kout *o, const char *name, int16_t v);
void kout_i32(struct kout *o, const char *name, int32_t v);
void kout_i64(struct kout *o, const char *name, int64_t v);
/* data == NULL writes null where the version allows it, else an empty string. */
void kout_string(struct kout *o, const char *name, struct slice v);
void kout_str(struct kout *o, const char *name, const char *v); /* NULL: null */
void kout_bytes(struct kout *o, const char *name, struct slice v);
void kout_uuid(struct kout *o, const char *name, const uint8_t *v); /* NULL: zeros */
/* Arrays of structures: kout_array, then kout_item before each element, then kout_array_end. */
void kout_array(struct kout *o, const char *name);
void kout_item(struct kout *o);
void kout_array_end(struct kout *o);
void kout_array_null(struct kout *o, const char *name); /* null where the version allows it, else empty */
/* Arrays of plain values. */
void kout_list(struct kout *o, const char *name);
void kout_elem_i32(struct kout *o, int32_t v);
void kout_elem_string(struct kout *o, struct slice v);
void kout_list_end(struct kout *o);
/* All fields were written; ends the message. */
void kout_end(struct kout *o);

/* ---- pieces shared with the hand-written paths -------------------------------------------------------- */
/* The length or count of a string, bytes or array: -1 for null. Sets r->bad when it is negative otherwise, or
 * more than the bytes left. */
int64_t kafka_read_string_len(struct reader *r, bool flexible);
int64_t kafka_read_len(struct reader *r, bool flexible);
struct slice kafka_read_string(struct reader *r, bool flexible);
void kafka_skip_tags(struct reader *r);
void kafka_put_string(struct buf *b, struct slice s, bool flexible); /* data == NULL: null */
void kafka_put_len(struct buf *b, int64_t n, bool flexible);         /* of bytes or an array; -1: null */

#endif
