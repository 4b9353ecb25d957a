/* The naive model that the keyspace is compared with: arrays and linear search, and random commands that go to both. */
#ifndef GM_TESTS_UNIT_KV_MODEL_H
#define GM_TESTS_UNIT_KV_MODEL_H

#include "fixture.h"

struct model;
struct model *model_new(unsigned keys);
void model_free(struct model *m);
/* One random command on f->kv and the model; results must agree. Commits it. */
void model_step(struct model *m, struct fixture *f, struct rand *r);
/* Compares all contents. */
void model_compare(struct model *m, struct fixture *f);

#endif
