#include "model.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/err.h"

struct item {
    char *name; /* field, member; NULL in a list */
    size_t name_len;
    char *value;
    size_t value_len;
};

struct mkey {
    enum kv_type type;
    int64_t expire_at; /* 0: none */
    struct item *items; /* a string is one item */
    size_t n;
};

struct model {
    unsigned keys;
    struct mkey *k; /* [db * keys + key] */
};

struct model *model_new(unsigned keys)
{
    struct model *m = calloc(1, sizeof(*m));

    m->keys = keys;
    m->k = calloc(2 * keys, sizeof(*m->k));
    return m;
}

static void clear(struct mkey *k)
{
    for (size_t i = 0; i < k->n; i++) {
        free(k->items[i].name);
        free(k->items[i].value);
    }
    free(k->items);
    *k = (struct mkey){0};
}

void model_free(struct model *m)
{
    for (unsigned i = 0; i < 2 * m->keys; i++)
        clear(&m->k[i]);
    free(m->k);
    free(m);
}

static char *dup_bytes(struct slice s)
{
    char *p = malloc(s.len + 1);

    if (s.len != 0)
        memcpy(p, s.data, s.len);
    return p;
}

static void insert(struct mkey *k, size_t at, struct slice name, struct slice value)
{
    k->items = realloc(k->items, (k->n + 1) * sizeof(k->items[0]));
    memmove(k->items + at + 1, k->items + at, (k->n - at) * sizeof(k->items[0]));
    k->items[at] = (struct item){name.data == NULL ? NULL : dup_bytes(name), name.len, dup_bytes(value), value.len};
    k->n++;
}

static void erase(struct mkey *k, size_t at)
{
    free(k->items[at].name);
    free(k->items[at].value);
    memmove(k->items + at, k->items + at + 1, (k->n - at - 1) * sizeof(k->items[0]));
    k->n--;
}

static int find(const struct mkey *k, struct slice name)
{
    for (size_t i = 0; i < k->n; i++)
        if (slice_eq(slice_of(k->items[i].name, k->items[i].name_len), name))
            return (int)i;
    return -1;
}

static struct slice value_of(const struct mkey *k, size_t i)
{
    return slice_of(k->items[i].value, k->items[i].value_len);
}

static void set_value(struct mkey *k, size_t i, struct slice v)
{
    char *p = dup_bytes(v);

    free(k->items[i].value);
    k->items[i].value = p;
    k->items[i].value_len = v.len;
}

/* Bytes of many shapes: integers, empty, short, long, huge. */
static struct slice random_value(struct rand *r, char *room)
{
    size_t n;

    switch (rand_below(r, 8)) {
    case 0:
        return slice_of(room, (size_t)sprintf(room, "%lld", (long long)rand_u64(r) >> rand_below(r, 63)));
    case 1:
        n = 0;
        break;
    case 2:
        n = 100 + rand_below(r, 900);
        break;
    case 3:
        n = rand_below(r, 50) == 0 ? rand_below(r, 150000) : 500 + rand_below(r, 30);
        break;
    default:
        n = rand_below(r, 70);
    }
    for (size_t i = 0; i < n; i++)
        room[i] = (char)('a' + (rand_u64(r) & 15));
    return slice_of(room, n);
}

static struct slice random_name(struct rand *r, char *room)
{
    /* Few names, so that they meet again; sometimes all integers (an intset), sometimes a long one. */
    unsigned v = (unsigned)rand_below(r, 400);

    if (v < 300)
        return slice_of(room, (size_t)sprintf(room, "%u", v));
    if (v == 399) {
        memset(room, 'L', 200);
        return slice_of(room, 200 + rand_below(r, 3));
    }
    return slice_of(room, (size_t)sprintf(room, "name-%u", v));
}

static struct slice key_name(unsigned i, char *room)
{
    if (i == 3) { /* a key longer than 255 bytes */
        memset(room, 'k', 300);
        return slice_of(room, 300);
    }
    return slice_of(room, (size_t)sprintf(room, "key:%u", i));
}

static void one_string(struct mkey *k, struct slice v, int64_t expire_at)
{
    clear(k);
    k->type = KV_STRING;
    k->expire_at = expire_at;
    insert(k, 0, SLICE_NONE, v);
}

void model_step(struct model *m, struct fixture *f, struct rand *r)
{
    static char a[160000], b[160000], kn[400];
    unsigned ki = (unsigned)rand_below(r, m->keys);
    uint64_t ret, added = 0;
    int64_t number, now = f->c.now_ms;
    struct slice key = key_name(ki, kn), v, out, names[6], pairs[12];
    static char rooms[6][300];
    struct mkey *k;
    size_t n = 1 + rand_below(r, 6);
    int err, at;

    f->c.db = (uint32_t)rand_below(r, 2);
    k = &m->k[f->c.db * m->keys + ki];
    if (k->type != KV_NONE && k->expire_at != 0 && k->expire_at <= now)
        clear(k);
    for (int i = 0; i < 6; i++)
        names[i] = random_name(r, rooms[i]);
    v = random_value(r, a);

    switch (rand_below(r, 26)) {
    case 0:
    case 1: {
        int64_t ex = rand_below(r, 3) == 0 ? now + 1 + (int64_t)rand_below(r, 500) : rand_below(r, 3) == 0 ? KV_EXPIRE_KEEP : 0;

        kv_string_set(&f->c, key, v, ex);
        one_string(k, v, ex == KV_EXPIRE_KEEP ? k->expire_at : ex);
        break;
    }
    case 2:
        err = kv_string_get(&f->c, key, &out);
        cr_assert_eq(err, k->type == KV_NONE ? ERR_NOT_FOUND : k->type != KV_STRING ? ERR_WRONG_TYPE : 0);
        if (err == 0)
            cr_assert(slice_eq(out, value_of(k, 0)));
        break;
    case 3: {
        int64_t old = 0, by = (int64_t)rand_u64(r) >> rand_below(r, 63), sum;
        int want = 0;

        if (k->type != KV_NONE && k->type != KV_STRING)
            want = ERR_WRONG_TYPE;
        else if (k->type == KV_STRING && !slice_to_i64(value_of(k, 0), &old))
            want = ERR_NOT_INTEGER;
        else if (__builtin_add_overflow(old, by, &sum))
            want = ERR_OVERFLOW;
        err = kv_string_incr(&f->c, key, by, &number);
        cr_assert_eq(err, want);
        if (err == 0) {
            cr_assert_eq(number, sum);
            one_string(k, slice_of(b, (size_t)sprintf(b, "%lld", (long long)sum)), k->expire_at);
        }
        break;
    }
    case 4:
    case 5: {
        bool append = rand_below(r, 2) == 0;
        size_t old = k->type == KV_STRING ? k->items[0].value_len : 0;
        size_t offset = append ? old : rand_below(r, 700), end;

        if (old + v.len > 100000)
            return;
        err = append ? kv_string_append(&f->c, key, v, &ret) : kv_string_set_range(&f->c, key, offset, v, &ret);
        cr_assert_eq(err, k->type != KV_NONE && k->type != KV_STRING ? ERR_WRONG_TYPE : 0);
        if (err != 0)
            break;
        if (v.len == 0 && (k->type != KV_NONE || offset != 0)) {
            cr_assert_eq(ret, old);
            break;
        }
        end = MAX_OF(old, offset + v.len);
        memset(b, 0, end);
        if (old != 0)
            memcpy(b, k->items[0].value, old);
        if (v.len != 0)
            memcpy(b + offset, v.data, v.len);
        cr_assert_eq(ret, end);
        one_string(k, slice_of(b, end), k->expire_at);
        break;
    }
    case 6:
        cr_assert_eq(kv_key_del(&f->c, key), k->type != KV_NONE);
        clear(k);
        break;
    case 7: {
        int64_t ex = now - 5 + (int64_t)rand_below(r, 500);

        cr_assert_eq(kv_key_expire_at(&f->c, key, ex), k->type != KV_NONE);
        if (k->type != KV_NONE && ex <= now)
            clear(k);
        else if (k->type != KV_NONE)
            k->expire_at = ex;
        break;
    }
    case 8:
        cr_assert_eq(kv_key_persist(&f->c, key), k->expire_at != 0);
        k->expire_at = 0;
        break;
    case 9:
    case 10:
    case 11:
        for (size_t i = 0; i < n; i++) {
            pairs[2 * i] = names[i];
            pairs[2 * i + 1] = i == 0 ? v : names[(i + 1) % 6];
        }
        err = kv_hash_set(&f->c, key, pairs, n, &ret);
        cr_assert_eq(err, k->type != KV_NONE && k->type != KV_HASH ? ERR_WRONG_TYPE : 0);
        if (err != 0)
            break;
        k->type = KV_HASH;
        for (size_t i = 0; i < n; i++) {
            at = find(k, pairs[2 * i]);
            if (at >= 0) {
                set_value(k, (size_t)at, pairs[2 * i + 1]);
            } else {
                insert(k, k->n, pairs[2 * i], pairs[2 * i + 1]);
                added++;
            }
        }
        cr_assert_eq(ret, added);
        break;
    case 12:
        err = kv_hash_get(&f->c, key, names[0], &out);
        if (k->type == KV_NONE || k->type == KV_HASH) {
            at = k->type == KV_HASH ? find(k, names[0]) : -1;
            cr_assert_eq(err, at < 0 ? ERR_NOT_FOUND : 0);
            if (err == 0)
                cr_assert(slice_eq(out, value_of(k, (size_t)at)));
        } else {
            cr_assert_eq(err, ERR_WRONG_TYPE);
        }
        break;
    case 13:
    case 14: {
        bool hash = rand_below(r, 2) == 0;
        enum kv_type type = hash ? KV_HASH : KV_SET;

        err = hash ? kv_hash_del(&f->c, key, names, n, &ret) : kv_set_rem(&f->c, key, names, n, &ret);
        cr_assert_eq(err, k->type != KV_NONE && k->type != type ? ERR_WRONG_TYPE : 0);
        if (err != 0 || k->type == KV_NONE)
            break;
        for (size_t i = 0; i < n; i++) {
            if ((at = find(k, names[i])) >= 0) {
                erase(k, (size_t)at);
                added++;
            }
        }
        cr_assert_eq(ret, added);
        if (k->n == 0)
            clear(k);
        break;
    }
    case 15:
    case 16:
    case 17:
        err = kv_set_add(&f->c, key, names, n, &ret);
        cr_assert_eq(err, k->type != KV_NONE && k->type != KV_SET ? ERR_WRONG_TYPE : 0);
        if (err != 0)
            break;
        k->type = KV_SET;
        for (size_t i = 0; i < n; i++) {
            if (find(k, names[i]) < 0) {
                insert(k, k->n, names[i], SLICE_NONE);
                added++;
            }
        }
        cr_assert_eq(ret, added);
        break;
    case 18: {
        bool has;

        err = kv_set_has(&f->c, key, names[0], &has);
        cr_assert_eq(err, k->type != KV_NONE && k->type != KV_SET ? ERR_WRONG_TYPE : 0);
        if (err == 0)
            cr_assert_eq(has, k->type == KV_SET && find(k, names[0]) >= 0);
        break;
    }
    case 19:
    case 20:
    case 21: {
        enum kv_end end = rand_below(r, 2) == 0 ? KV_HEAD : KV_TAIL;
        bool only = rand_below(r, 5) == 0;

        names[0] = v;
        err = kv_list_push(&f->c, key, end, names, n, only, &ret);
        cr_assert_eq(err, k->type != KV_NONE && k->type != KV_LIST ? ERR_WRONG_TYPE : 0);
        if (err != 0)
            break;
        if (k->type == KV_NONE && only) {
            cr_assert_eq(ret, 0);
            break;
        }
        k->type = KV_LIST;
        for (size_t i = 0; i < n; i++)
            insert(k, end == KV_HEAD ? 0 : k->n, SLICE_NONE, names[i]);
        cr_assert_eq(ret, k->n);
        break;
    }
    case 22:
    case 23: {
        struct buf popped = {0};
        enum kv_end end = rand_below(r, 2) == 0 ? KV_HEAD : KV_TAIL;

        err = kv_list_pop(&f->c, key, end, &popped);
        cr_assert_eq(err, k->type == KV_NONE ? ERR_NOT_FOUND : k->type != KV_LIST ? ERR_WRONG_TYPE : 0);
        if (err == 0) {
            size_t i = end == KV_HEAD ? 0 : k->n - 1;

            cr_assert(slice_eq(buf_slice(&popped), value_of(k, i)));
            erase(k, i);
            if (k->n == 0)
                clear(k);
        }
        buf_fini(&popped);
        break;
    }
    case 24:
        f->c.now_ms += (int64_t)rand_below(r, 20);
        if (rand_below(r, 4) == 0)
            kv_expire_cycle(&f->c, 1000);
        break;
    case 25:
        if (rand_below(r, 200) != 0)
            return;
        kv_db_flush(&f->c);
        for (unsigned i = 0; i < m->keys; i++)
            clear(&m->k[f->c.db * m->keys + i]);
        break;
    }
    fixture_commit(f);
}

struct list_check {
    struct mkey *k;
    size_t i;
};

static void check_element(struct slice v, void *arg)
{
    struct list_check *c = arg;

    cr_assert(slice_eq(v, value_of(c->k, c->i)), "element %zu", c->i);
    c->i++;
}

static void check_field(struct slice field, struct slice v, void *arg)
{
    struct list_check *c = arg;
    int at = find(c->k, field);

    cr_assert_geq(at, 0);
    cr_assert(slice_eq(v, value_of(c->k, (size_t)at)));
    c->i++;
}

static void check_member(struct slice member, void *arg)
{
    struct list_check *c = arg;

    cr_assert_geq(find(c->k, member), 0);
    c->i++;
}

void model_compare(struct model *m, struct fixture *f)
{
    char kn[400];

    for (unsigned i = 0; i < 2 * m->keys; i++) {
        struct mkey *k = &m->k[i];
        struct slice key = key_name(i % m->keys, kn), out;
        struct list_check check = {k, 0};
        uint64_t n = 0;

        f->c.db = i / m->keys;
        if (k->type != KV_NONE && k->expire_at != 0 && k->expire_at <= f->c.now_ms)
            clear(k);
        cr_assert_eq(kv_key_type(&f->c, key), k->type);
        cr_assert_eq(kv_key_expire_time(&f->c, key), k->type == KV_NONE ? -2 : k->expire_at == 0 ? -1 : k->expire_at);
        switch (k->type) {
        case KV_STRING:
            cr_assert_eq(kv_string_get(&f->c, key, &out), 0);
            cr_assert(slice_eq(out, value_of(k, 0)));
            break;
        case KV_HASH:
            cr_assert_eq(kv_hash_each(&f->c, key, check_field, &check), 0);
            kv_hash_len(&f->c, key, &n);
            break;
        case KV_SET:
            cr_assert_eq(kv_set_each(&f->c, key, check_member, &check), 0);
            kv_set_len(&f->c, key, &n);
            break;
        case KV_LIST:
            cr_assert_eq(kv_list_range(&f->c, key, 0, -1, check_element, &check, &n), 0);
            if (k->n > 4) {
                uint64_t part;

                check.i = k->n / 3;
                kv_list_range(&f->c, key, (int64_t)(k->n / 3), -2, check_element, &check, &part);
                cr_assert_eq(check.i, k->n - 1);
                check.i = k->n;
            }
            for (int64_t at = -(int64_t)k->n - 1; at <= (int64_t)k->n; at += 1 + (int64_t)k->n / 7) {
                int64_t from_head = at < 0 ? at + (int64_t)k->n : at;
                bool inside = from_head >= 0 && from_head < (int64_t)k->n;

                cr_assert_eq(kv_list_get(&f->c, key, at, &out), inside ? 0 : ERR_RANGE);
                cr_assert(!inside || slice_eq(out, value_of(k, (size_t)from_head)));
            }
            cr_assert_eq(kv_list_get(&f->c, key, INT64_MIN, &out), ERR_RANGE);
            cr_assert_eq(kv_list_get(&f->c, key, INT64_MAX, &out), ERR_RANGE);
            kv_list_len(&f->c, key, &n);
            break;
        default:
            cr_assert_eq(kv_list_get(&f->c, key, 0, &out), ERR_NOT_FOUND);
            break;
        }
        if (k->type != KV_NONE && k->type != KV_STRING) {
            cr_assert_eq(check.i, k->n);
            cr_assert_eq(n, k->n);
        }
    }
}
