check_PROGRAMS += unit-bus
TESTS += unit-bus
unit_bus_SOURCES = %D%/rig.h %D%/rig.c %D%/bus_test.c %D%/hostile_test.c %D%/wire_test.c
unit_bus_CFLAGS = $(AM_CFLAGS) $(CRITERION_CFLAGS)
unit_bus_LDADD = libbus.a libio.a libmetrics.a libbase.a $(CRITERION_LIBS) $(EV_LIBS) $(CRYPTO_LIBS) $(LZ4_LIBS) $(JEMALLOC_LIBS) -lpthread -lm

check_PROGRAMS += stress-bus
TESTS += stress-bus
stress_bus_SOURCES = %D%/stress.c
stress_bus_LDADD = libbus.a libio.a libmetrics.a libbase.a $(EV_LIBS) $(CRYPTO_LIBS) $(LZ4_LIBS) $(JEMALLOC_LIBS) -lpthread -lm
