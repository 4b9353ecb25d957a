check_PROGRAMS += unit-topology
TESTS += unit-topology
unit_topology_SOURCES = %D%/pmap_test.c %D%/match_test.c %D%/state_test.c %D%/cluster_test.c %D%/store_test.c %D%/form_plan_test.c %D%/voters_plan_test.c %D%/group_test.c
unit_topology_CFLAGS = $(AM_CFLAGS) $(CRITERION_CFLAGS)
unit_topology_LDADD = libtopology.a libraft.a libbus.a libio.a libmetrics.a libbase.a $(LZ4_LIBS) $(EV_LIBS) $(CRITERION_LIBS) $(CRYPTO_LIBS) $(JEMALLOC_LIBS)
