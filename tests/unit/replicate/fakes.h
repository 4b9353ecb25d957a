#ifndef GM_TESTS_UNIT_REPLICATE_FAKES_H
#define GM_TESTS_UNIT_REPLICATE_FAKES_H

#include "sim.h"

struct topology_store *fake_topology_new(struct sim *s, uint32_t id);
void fake_topology_publish(struct topology_store *t, const struct topology *v);
void fake_topology_free(struct topology_store *t);

struct bus *fake_bus_new(struct sim *s, uint32_t id, struct worker *data);
void fake_bus_up(struct bus *b, bool up); /* down: what is under way breaks */
void fake_bus_free(struct bus *b);

#endif
