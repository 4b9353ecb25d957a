/* Who may do what: login, permissions as regular expressions over names (RabbitMQ's access control), names in
 * error texts. */
#include <openssl/evp.h>
#include <regex.h>

#include "base/mem.h"
#include "protocols/amqp/session.h"

/* ---- names --------------------------------------------------------------------------------------------- */

const char *amqp_rs(char text[AMQP_RS_MAX], enum amqp_kind kind, struct slice name, struct slice vhost)
{
    snprintf(text, AMQP_RS_MAX, "%s '%.*s' in vhost '%.*s'", kind == AMQP_QUEUE ? "queue" : "exchange",
             SLICE_FMT(name), SLICE_FMT(vhost));
    return text;
}

/* ---- login --------------------------------------------------------------------------------------------- */

/* PLAIN (RFC 4616): [authzid] NUL user NUL password. AMQPLAIN: a table's bytes with LOGIN and PASSWORD. */
static int read_response(struct slice mechanism, struct slice response, struct slice *ret_user,
                         struct slice *ret_password)
{
    const uint8_t *a, *b;
    struct amqp_value user, password;

    if (slice_eq(mechanism, SLICE_LIT("AMQPLAIN"))) {
        if (amqp_table_check(response) < 0 || !amqp_table_find(response, "LOGIN", &user) ||
            !amqp_table_find(response, "PASSWORD", &password) || user.type != 'S' || password.type != 'S')
            return ERR_SYNTAX;
        *ret_user = user.bytes;
        *ret_password = password.bytes;
        return 0;
    }
    if (response.len == 0 || (a = memchr(response.data, 0, response.len)) == NULL)
        return ERR_SYNTAX;
    a++;
    b = memchr(a, 0, response.len - (size_t)(a - response.data));
    if (b == NULL)
        return ERR_SYNTAX;
    *ret_user = slice_of(a, (size_t)(b - a));
    *ret_password = slice_of(b + 1, response.len - (size_t)(b + 1 - response.data));
    return 0;
}

static bool password_is_right(const struct topo_user *user, struct slice password)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    uint8_t hash[EVP_MAX_MD_SIZE];
    unsigned differ = 0;
    bool ok;

    CHECK(ctx != NULL);
    ok = EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1 &&
         EVP_DigestUpdate(ctx, user->salt, sizeof(user->salt)) == 1 &&
         EVP_DigestUpdate(ctx, password.data, password.len) == 1 && EVP_DigestFinal_ex(ctx, hash, NULL) == 1;
    EVP_MD_CTX_free(ctx);
    for (size_t i = 0; i < sizeof(user->hash); i++)
        differ |= (unsigned)(hash[i] ^ user->hash[i]);
    return ok && differ == 0;
}

bool amqp_authenticate(struct amqp_session *s, struct slice mechanism, struct slice response, int *ret_err)
{
    struct slice name, password;
    const struct topo_user *user;

    *ret_err = read_response(mechanism, response, &name, &password);
    if (*ret_err < 0)
        return false;
    *ret_err = ERR_AUTH;
    user = topo_user_find(amqp_session_view(s), name);
    if (user == NULL || password.len == 0 || !password_is_right(user, password))
        return false;
    /* The well-known account works from this host only (RabbitMQ's loopback_users). */
    if (slice_eq(name, SLICE_LIT("guest")) && !conn_peer_is_loopback(s->conn))
        return false;
    if (s->user.data == NULL)
        s->user = slice_of(mem_strdup_slice(name), name.len);
    *ret_err = 0;
    return true;
}

/* ---- permissions --------------------------------------------------------------------------------------- */

#define REGEX_CACHE 16

/* Compiled patterns of a worker; ".*" and "" need none. */
struct regex_cache {
    unsigned next; /* replaced in turn */
    struct {
        struct slice pattern; /* owned; data NULL: free */
        regex_t compiled;
        bool valid;
    } slots[REGEX_CACHE];
};

void amqp_regexes_free(struct regex_cache *c)
{
    if (c == NULL)
        return;
    for (size_t i = 0; i < REGEX_CACHE; i++) {
        if (c->slots[i].valid)
            regfree(&c->slots[i].compiled);
        mem_free((void *)c->slots[i].pattern.data);
    }
    mem_free(c);
}

static bool pattern_matches(struct amqp_worker *aw, struct slice pattern, struct slice name)
{
    struct regex_cache *c;
    char text[256];
    unsigned i;

    if (pattern.len == 0)
        return false;
    if (slice_eq(pattern, SLICE_LIT(".*")))
        return true;
    if (aw->regexes == NULL)
        aw->regexes = mem_zalloc(sizeof(*aw->regexes));
    c = aw->regexes;
    for (i = 0; i < REGEX_CACHE; i++) {
        if (c->slots[i].pattern.data != NULL && slice_eq(c->slots[i].pattern, pattern))
            break;
    }
    if (i == REGEX_CACHE) {
        char *copy = mem_strdup_slice(pattern);

        i = c->next++ % REGEX_CACHE;
        if (c->slots[i].valid)
            regfree(&c->slots[i].compiled);
        mem_free((void *)c->slots[i].pattern.data);
        c->slots[i].pattern = slice_of(copy, pattern.len);
        c->slots[i].valid = regcomp(&c->slots[i].compiled, copy, REG_EXTENDED | REG_NOSUB) == 0;
    }
    CHECK(name.len < sizeof(text));
    if (name.len != 0)
        memcpy(text, name.data, name.len);
    text[name.len] = '\0';
    return c->slots[i].valid && regexec(&c->slots[i].compiled, text, 0, NULL, 0) == 0;
}

bool amqp_allowed(struct amqp_session *s, enum amqp_permission p, struct slice name)
{
    const struct topo_permission *permission = topo_permission_find(amqp_session_view(s), s->user, s->vhost);

    if (permission == NULL)
        return false;
    return pattern_matches(s->aw,
                           p == AMQP_CONFIGURE ? permission->configure
                           : p == AMQP_WRITE   ? permission->write
                                               : permission->read,
                           name);
}

bool amqp_permitted(struct amqp_channel *ch, enum amqp_permission p, enum amqp_kind kind, struct slice name)
{
    static const char *const words[] = {"configure", "write", "read"};
    struct amqp_session *s = ch->session;
    char text[AMQP_RS_MAX];

    if (kind == AMQP_EXCHANGE && name.len == 0)
        name = SLICE_LIT("amq.default");
    if (amqp_allowed(s, p, name))
        return true;
    amqp_fail(ch, AMQP_ACCESS_REFUSED, "%s access to %s refused for user '%.*s'", words[p],
              amqp_rs(text, kind, name, s->vhost), SLICE_FMT(s->user));
    return false;
}
