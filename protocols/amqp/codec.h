/* Frames, methods and content headers of AMQP 0-9-1 (sections 2.3.5 and 4.2), generated from methods.def and
 * properties.def.
 *
 *   frame:   type u8 | channel u16 | size u32 | payload | 0xCE
 *   method:  class u16 | method u16 | fields
 *   header:  class u16 | weight u16 = 0 | body size u64 | flags u16 | properties
 *
 * Decoding borrows: strings and tables are slices of the frame. Tables were checked (amqp_table_check).
 * Encoding appends one whole frame to a buffer. Pure; any thread. */
#ifndef GM_AMQP_CODEC_H
#define GM_AMQP_CODEC_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/err.h"
#include "protocols/amqp/table.h"

#define AMQP_FRAME_HEADER 7
#define AMQP_FRAME_OVERHEAD 8 /* header and end octet */
#define AMQP_FRAME_END 0xCE
#define AMQP_FRAME_MIN 4096 /* section 1.2: every peer accepts this */

enum amqp_frame_type {
    AMQP_FRAME_METHOD = 1,
    AMQP_FRAME_CONTENT_HEADER = 2,
    AMQP_FRAME_BODY = 3,
    AMQP_FRAME_HEARTBEAT = 8
};

enum amqp_reply {
#define X(name, code, level) AMQP_##name = code,
#include "protocols/amqp/replies.def"
#undef X
};
/* "NOT_FOUND"; NULL for an unknown code. */
const char *amqp_reply_name(unsigned code);
/* True when the code closes the connection, not just the channel. */
bool amqp_reply_is_hard(unsigned code);

enum amqp_class { AMQP_CLASS_CONNECTION = 10, AMQP_CLASS_CHANNEL = 20, AMQP_CLASS_BASIC = 60 };

/* class << 16 | method. */
#define CLIENT(class, class_id, method, method_id, sync, fields)                                             \
    AMQP_ID_##class##_##method = (class_id) << 16 | (method_id),
#define SERVER CLIENT
#define BOTH CLIENT
enum amqp_method_id {
#include "protocols/amqp/methods.def"
};
#undef CLIENT
#undef SERVER
#undef BOTH

/* ---- field types --------------------------------------------------------------------------------------- */
typedef uint8_t amqp_octet;
typedef uint16_t amqp_u16;
typedef uint32_t amqp_u32;
typedef uint64_t amqp_u64;
typedef bool amqp_bit;
typedef struct slice amqp_shortstr; /* up to 255 bytes */
typedef struct slice amqp_longstr;
typedef struct slice amqp_table; /* its bytes without the length */

#define F(type, name) amqp_##type name;
#define CLIENT(class, class_id, method, method_id, sync, fields)                                             \
    struct amqp_##class##_##method                                                                           \
    {                                                                                                        \
        fields                                                                                               \
    };
#define SERVER CLIENT
#define BOTH CLIENT
#include "protocols/amqp/methods.def"
#undef F
#undef CLIENT
#undef SERVER
#undef BOTH

/* Decodes the fields behind class and method. ERR_MALFORMED (also for bytes left over). */
#define CLIENT(class, class_id, method, method_id, sync, fields)                                             \
    int amqp_get_##class##_##method(struct slice fields_bytes, struct amqp_##class##_##method *ret);
#define SERVER CLIENT
#define BOTH CLIENT
#include "protocols/amqp/methods.def"
#undef CLIENT
#undef SERVER
#undef BOTH
/* Appends a whole method frame. Short strings longer than 255 bytes are a bug. */
#define CLIENT(class, class_id, method, method_id, sync, fields)                                             \
    void amqp_put_##class##_##method(struct buf *out, uint16_t channel,                                      \
                                     const struct amqp_##class##_##method *m);
#define SERVER CLIENT
#define BOTH CLIENT
#include "protocols/amqp/methods.def"
#undef CLIENT
#undef SERVER
#undef BOTH

struct amqp_method_info {
    uint32_t id;      /* class << 16 | method */
    const char *name; /* "queue.declare_ok" */
    bool synchronous;
    bool from_client, from_server;
};
const struct amqp_method_info *amqp_method_find(uint32_t id); /* NULL: unknown */
extern const struct amqp_method_info amqp_methods[];
extern const size_t amqp_method_count;

/* ---- frames -------------------------------------------------------------------------------------------- */
struct amqp_frame {
    uint8_t type;
    uint16_t channel;
    struct slice payload;
};
/* Reads one frame. Returns its whole length, 0 when more bytes are needed, or ERR_TOO_LARGE (*ret holds type
 * and channel and payload.len the announced size) or ERR_MALFORMED (wrong end octet; *ret is filled in).
 * RabbitMQ lets clients exceed frame_max by 8, as many count the overhead wrongly; so do we. */
ssize_t amqp_frame_read(struct slice in, uint32_t frame_max, struct amqp_frame *ret);
void amqp_put_heartbeat(struct buf *out);
void amqp_put_frame_header(struct buf *out, enum amqp_frame_type type, uint16_t channel, uint32_t size);

/* ---- content ------------------------------------------------------------------------------------------- */
struct amqp_properties {
    uint16_t flags;
    struct slice raw; /* flags and property list as they came */
#define P(bit, ptype, pname) amqp_##ptype pname;
#include "protocols/amqp/properties.def"
#undef P
};
enum {
#define P(bit, ptype, pname) AMQP_HAS_##pname = 1 << (bit),
#include "protocols/amqp/properties.def"
#undef P
};
/* raw = flags u16 and property list, all of it. ERR_MALFORMED. */
int amqp_properties_read(struct slice raw, struct amqp_properties *ret);
/* Writes flags and list from the fields that flags names (raw is not looked at). */
void amqp_properties_write(const struct amqp_properties *p, struct buf *out);
/* The payload of a header frame. ERR_MALFORMED. */
int amqp_content_header_read(struct slice payload, uint16_t *ret_class, uint64_t *ret_body_size,
                             struct slice *ret_properties);
/* A header frame and the body frames, split to frame_max (0: unlimited). */
void amqp_put_content_header(struct buf *out, uint16_t channel, uint64_t body_size, struct slice properties);
void amqp_put_content(struct buf *out, uint16_t channel, uint32_t frame_max, struct slice properties,
                      struct slice body);

#endif
