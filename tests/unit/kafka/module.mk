check_PROGRAMS += unit-kafka
TESTS += unit-kafka
unit_kafka_SOURCES = %D%/cluster_rig.c %D%/cluster_rig.h %D%/cluster_test.c %D%/cluster_way_test.c %D%/codec_test.c %D%/errors_test.c %D%/front_test.c %D%/node.c %D%/node.h
unit_kafka_CPPFLAGS = $(AM_CPPFLAGS) -I$(srcdir)/%D%
unit_kafka_CFLAGS = $(AM_CFLAGS) $(CRITERION_CFLAGS)
unit_kafka_LDADD = libkafka.a libpartition.a libstream.a libqueue.a libkv.a libtopology.a libraft.a libbus.a liblog.a libio.a \
	libmetrics.a libconfig.a libbase.a $(CRITERION_LIBS) $(LOG_LIBS) $(EV_LIBS) $(YAML_LIBS) $(CRYPTO_LIBS) $(JEMALLOC_LIBS) \
	-lpthread -lm
