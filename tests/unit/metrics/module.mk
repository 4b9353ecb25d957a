check_PROGRAMS += unit-metrics
TESTS += unit-metrics
unit_metrics_SOURCES = %D%/metrics_test.c
unit_metrics_CFLAGS = $(AM_CFLAGS) $(CRITERION_CFLAGS)
unit_metrics_LDADD = libmetrics.a libbase.a $(CRITERION_LIBS) $(JEMALLOC_LIBS) -lpthread -lm
