/* AMQP field tables (section 4.2.5.5) with RabbitMQ's types, which differ from the specification's letters:
 *
 *   S longstr   T u64 seconds  b i8   B u8    s i16   u u16   I i32   i u32   l, L i64
 *   f float     d double       t bool D scale u8 + u32        F table A array x bytes V void
 *
 * A table is handled as its bytes without the length; nothing is copied or converted. amqp_table_check is the
 * gate: whoever passed a table through it may iterate without looking for errors. Duplicate names are
 * tolerated, the first counts, order is kept. Pure; any thread. */
#ifndef GM_AMQP_TABLE_H
#define GM_AMQP_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

#define AMQP_TABLE_DEPTH_MAX 16 /* nested tables and arrays */

struct amqp_value {
    uint8_t type;       /* the letter; 0: absent */
    int64_t i;          /* b B s u I i l L T t D's digits */
    double f;           /* f d */
    uint8_t scale;      /* D */
    struct slice bytes; /* S x F A */
};

struct amqp_table_iter {
    struct reader r;
    bool array; /* values without names */
};

/* 0 or ERR_MALFORMED. */
int amqp_table_check(struct slice table);
/* The names of no type: an unknown letter is malformed. */
void amqp_table_iter_init(struct amqp_table_iter *it, struct slice table);
void amqp_array_iter_init(struct amqp_table_iter *it, struct slice array);
/* False at the end. An array gives empty names. */
bool amqp_table_next(struct amqp_table_iter *it, struct slice *ret_name, struct amqp_value *ret_value);
/* False when absent; *ret_value then has type 0. */
bool amqp_table_find(struct slice table, const char *name, struct amqp_value *ret_value);
bool amqp_table_find_slice(struct slice table, struct slice name, struct amqp_value *ret_value);

bool amqp_value_is_integer(const struct amqp_value *v); /* any width; not T, t, D */
/* Integers equal by value whatever their width, floats likewise; the rest by type and bytes. */
bool amqp_value_eq(const struct amqp_value *a, const struct amqp_value *b);
/* RabbitMQ's name of the type ("longstr", "signedint"), "undefined" for an absent one. */
const char *amqp_value_type_name(const struct amqp_value *v);
/* The value as text for error messages. */
void amqp_value_text(const struct amqp_value *v, struct buf *out);

/* Building: values into a table's bytes. */
void amqp_table_put_str(struct buf *out, const char *name, struct slice value);
void amqp_table_put_bool(struct buf *out, const char *name, bool value);
void amqp_table_put_i64(struct buf *out, const char *name, int64_t value);
void amqp_table_put_i32(struct buf *out, const char *name, int32_t value);
void amqp_table_put_table(struct buf *out, const char *name, struct slice table);
/* Copies `table` leaving out one name. */
void amqp_table_copy_without(struct buf *out, struct slice table, const char *name);

#endif
