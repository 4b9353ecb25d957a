check_PROGRAMS += unit-kafka
TESTS += unit-kafka
unit_kafka_SOURCES = %D%/codec_test.c %D%/errors_test.c
unit_kafka_CFLAGS = $(AM_CFLAGS) $(CRITERION_CFLAGS)
unit_kafka_LDADD = libkafka.a libbase.a $(CRITERION_LIBS) $(JEMALLOC_LIBS)
