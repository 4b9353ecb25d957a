/* Topic routing: the ordered map of bindings read as a trie of pattern words.
 *
 * A pattern is followed word by word with the set of positions in the routing key it may have reached (a nondeterministic automaton), so each trie node is visited
 * once however many `#` a hostile pattern strings together: the work is bounded by (nodes reached) x (words of the key). */
#include "base/check.h"
#include "cluster/topology/state.h"

#define WORDS_MAX 256 /* a routing key has at most 255 bytes */

struct positions {
    uint64_t bits[(WORDS_MAX + 64) / 64];
};

struct walk {
    const struct topology *v;
    struct slice words[WORDS_MAX];
    unsigned count;
    struct buf prefix;
    bool (*fn)(const struct topo_binding *, void *);
    void *arg;
};

static bool has(const struct positions *p, unsigned i)
{
    return p->bits[i / 64] >> (i % 64) & 1;
}

static void add(struct positions *p, unsigned i)
{
    p->bits[i / 64] |= 1ull << (i % 64);
}

static bool emit_one(struct slice key, void *value, void *arg)
{
    struct walk *w = arg;

    (void)key;
    return w->fn(value, w->arg);
}

static bool walk_node(struct walk *w, const struct positions *at);

static bool is_none(const struct positions *p)
{
    for (unsigned i = 0; i < ARRAY_LEN(p->bits); i++) {
        if (p->bits[i] != 0)
            return false;
    }
    return true;
}

/* Follows one pattern word below the prefix: bindings that end with it, then those that go on. */
static bool walk_word(struct walk *w, struct slice word, bool escape, const struct positions *at)
{
    size_t mark = w->prefix.len;
    bool go_on = true;
    struct slice key;
    void *value;

    if (is_none(at))
        return true;
    if (escape)
        topo_key_word(&w->prefix, word);
    else
        buf_put_slice(&w->prefix, word);
    if (has(at, w->count)) {
        buf_put_u8(&w->prefix, 0);
        go_on = pmap_each_prefix(&w->v->bindings, buf_slice(&w->prefix), emit_one, w);
        w->prefix.len--;
    }
    buf_put_u8(&w->prefix, 1);
    if (go_on && pmap_seek(&w->v->bindings, buf_slice(&w->prefix), &key, &value) && key.len >= w->prefix.len &&
        memcmp(key.data, w->prefix.data, w->prefix.len) == 0)
        go_on = walk_node(w, at);
    w->prefix.len = mark;
    return go_on;
}

static bool walk_node(struct walk *w, const struct positions *at)
{
    struct positions star = {{0}}, hash = {{0}}, done = {{0}};
    bool any = false;

    for (unsigned i = 0; i <= w->count; i++) {
        if (has(at, i))
            any = true;
        if (any)
            add(&hash, i);
        if (i < w->count && has(at, i))
            add(&star, i + 1);
    }
    for (unsigned i = 0; i < w->count; i++) {
        struct positions next = {{0}};

        if (!has(at, i) || has(&done, i))
            continue;
        for (unsigned j = i; j < w->count; j++) {
            if (has(at, j) && slice_eq(w->words[i], w->words[j])) {
                add(&done, j);
                add(&next, j + 1);
            }
        }
        if (slice_eq(w->words[i], SLICE_LIT("*")) || slice_eq(w->words[i], SLICE_LIT("#")))
            continue; /* reached below as the wildcard, which covers it */
        if (!walk_word(w, w->words[i], true, &next))
            return false;
    }
    return walk_word(w, SLICE_LIT("*"), false, &star) && walk_word(w, SLICE_LIT("#"), false, &hash);
}

void topo_match_topic(const struct topology *v, uint64_t exchange_id, struct slice routing_key,
                      bool (*fn)(const struct topo_binding *, void *), void *arg)
{
    struct walk w = {.v = v, .fn = fn, .arg = arg};
    struct positions at = {{0}};
    size_t start = 0;

    if (routing_key.len > 255)
        return;
    for (size_t i = 0; routing_key.len > 0 && i <= routing_key.len; i++) {
        if (i == routing_key.len || routing_key.data[i] == '.') {
            w.words[w.count++] = slice_of(routing_key.data + start, i - start);
            start = i + 1;
        }
    }
    add(&at, 0);
    buf_put_be64(&w.prefix, exchange_id);
    if (w.count == 0) {
        /* The empty key has no words; a binding with the empty pattern is its only literal match. */
        buf_put_u8(&w.prefix, 0);
        if (!pmap_each_prefix(&v->bindings, buf_slice(&w.prefix), emit_one, &w))
            goto done;
        w.prefix.len--;
    }
    walk_node(&w, &at);
done:
    buf_fini(&w.prefix);
}
