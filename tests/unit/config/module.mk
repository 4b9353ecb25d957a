check_PROGRAMS += unit-config
TESTS += unit-config
unit_config_SOURCES = %D%/config_test.c
unit_config_CFLAGS = $(AM_CFLAGS) $(CRITERION_CFLAGS)
unit_config_LDADD = libconfig.a libbase.a $(CRITERION_LIBS) $(YAML_LIBS) $(JEMALLOC_LIBS) -lpthread
