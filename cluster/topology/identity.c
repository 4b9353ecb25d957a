#include "cluster/topology/identity.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/fileio.h"
#include "base/mem.h"
#include "base/rand.h"
#include "log/effect.h"

void identity_hex(const uint8_t id[16], char text[33])
{
    for (int i = 0; i < 16; i++)
        snprintf(text + 2 * i, 3, "%02x", id[i]);
}

static bool parse_hex(const char *text, uint8_t id[16])
{
    for (int i = 0; i < 16; i++) {
        unsigned v;

        if (!isxdigit((unsigned char)text[2 * i]) || !isxdigit((unsigned char)text[2 * i + 1]) ||
            sscanf(text + 2 * i, "%2x", &v) != 1)
            return false;
        id[i] = (uint8_t)v;
    }
    return text[32] == '\0';
}

int identity_load(const char *data_dir, struct identity *ret)
{
    char *path = mem_printf("%s/node.id", data_dir), cluster[33] = "", node[33] = "", formed[4] = "";
    struct buf b = {0};
    int err = file_read(path, 4096, &b);

    mem_free(path);
    if (err == 0) {
        buf_put_u8(&b, 0);
        unsigned long long epoch = 0;

        ret->node_id = 0;
        if (sscanf((char *)b.data, "cluster_id: %32s\nnode_uuid: %32s\nlevel: %u\nformed: %3s\nnode_id: %u\nepoch: %llu\n", cluster, node,
                   &ret->level, formed, &ret->node_id, &epoch) < 4 ||
            !parse_hex(cluster, ret->cluster_id) || !parse_hex(node, ret->node_uuid))
            err = ERR_CORRUPT;
        else if (ret->level > EFFECT_LEVEL_MAX)
            err = ERR_LEVEL;
        ret->formed = strcmp(formed, "yes") == 0;
        ret->epoch = epoch;
    }
    buf_fini(&b);
    return err;
}

int identity_save(const char *data_dir, const struct identity *id)
{
    char cluster[33], node[33], *path = mem_printf("%s/node.id", data_dir);
    struct buf b = {0};
    int err;

    identity_hex(id->cluster_id, cluster);
    identity_hex(id->node_uuid, node);
    buf_printf(&b, "cluster_id: %s\nnode_uuid: %s\nlevel: %u\nformed: %s\nnode_id: %u\nepoch: %llu\n", cluster, node, id->level,
               id->formed ? "yes" : "no", id->node_id, (unsigned long long)id->epoch);
    err = file_replace(path, b.data, b.len);
    buf_fini(&b);
    mem_free(path);
    return err;
}

int identity_open(const char *data_dir, struct identity *ret, char *why, size_t size)
{
    int err = file_make_dirs(data_dir);

    if (err == 0)
        err = identity_load(data_dir, ret);
    if (err == ERR_NOT_FOUND) {
        /* A crash between here and the forming leaves an identity that is not formed yet; it is used again. */
        *ret = (struct identity){.level = 1}; /* nothing is written above what the topology says, once there is one */
        rand_secure(ret->node_uuid, 16);
        err = identity_save(data_dir, ret);
    }
    if (err == ERR_LEVEL)
        snprintf(why, size, "%s was written by a newer version (feature level %u, this one knows %u)", data_dir, ret->level, EFFECT_LEVEL_MAX);
    else if (err < 0)
        snprintf(why, size, "%s/node.id: %s", data_dir, err_text(err));
    return err;
}
