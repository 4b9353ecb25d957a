# Compatibility tests: unchanged clients against gomsgd (make check-compat) or against the real servers (check-compat-real).
# The C ones are built with the other check programs.
check_PROGRAMS += compat-resp
compat_resp_SOURCES = %D%/resp/hiredis_client.c %D%/lib/compat.h
compat_resp_CPPFLAGS = $(AM_CPPFLAGS) $(HIREDIS_CFLAGS)
compat_resp_LDADD = $(HIREDIS_LIBS)

compat_programs = compat-resp

if HAVE_RABBITMQ
check_PROGRAMS += compat-amqp
compat_programs += compat-amqp
compat_amqp_SOURCES = %D%/amqp/rabbitmq_c.c %D%/lib/compat.h
compat_amqp_CPPFLAGS = $(AM_CPPFLAGS) $(RABBITMQ_CFLAGS)
compat_amqp_LDADD = $(RABBITMQ_LIBS)
endif

if HAVE_RDKAFKA
check_PROGRAMS += compat-kafka
compat_programs += compat-kafka
compat_kafka_SOURCES = %D%/kafka/librdkafka_client.c %D%/lib/compat.h
compat_kafka_CPPFLAGS = $(AM_CPPFLAGS) $(RDKAFKA_CFLAGS)
compat_kafka_LDADD = $(RDKAFKA_LIBS)
endif

TESTS += %D%/check
EXTRA_DIST += %D%/check %D%/run %D%/requirements.txt %D%/lib/compat.py %D%/lib/node.py \
	%D%/resp/redis_py.py %D%/resp/wire.py %D%/resp/redis_cli.py \
	%D%/amqp/pika_client.py %D%/amqp/errors.py %D%/amqp/extensions.py %D%/amqp/tools.py \
	%D%/kafka/kcat.py %D%/kafka/wire.py %D%/cross/one_node.py %D%/cross/cluster.py \
	%D%/README.md \
	%D%/cross/failover/trial.py %D%/cross/failover/steady.py %D%/cross/failover/steady.js %D%/cross/failover/Steady.java %D%/cross/failover/steady.go \
	%D%/cross/redis_failover/run %D%/cross/redis_failover/clients.txt %D%/cross/redis_failover/package.json %D%/cross/redis_failover/package-lock.json \
	%D%/cross/redis_failover/pom.xml %D%/cross/redis_failover/go.mod %D%/cross/redis_failover/go.sum %D%/cross/redis_failover/redis_py_client.py \
	%D%/cross/redis_failover/ioredis_client.js %D%/cross/redis_failover/node_redis_client.js %D%/cross/redis_failover/Keys.java %D%/cross/redis_failover/JedisClient.java \
	%D%/cross/redis_failover/LettuceClient.java %D%/cross/redis_failover/go_redis_client.go \
	%D%/cross/kafka_failover/run %D%/cross/kafka_failover/clients.txt %D%/cross/kafka_failover/package.json %D%/cross/kafka_failover/package-lock.json \
	%D%/cross/kafka_failover/pom.xml %D%/cross/kafka_failover/confluent_client.py %D%/cross/kafka_failover/kafka_python_client.py \
	%D%/cross/kafka_failover/kafkajs_client.js %D%/cross/kafka_failover/JavaClient.java \
	%D%/cross/amqp_failover/run %D%/cross/amqp_failover/clients.txt %D%/cross/amqp_failover/package.json %D%/cross/amqp_failover/package-lock.json \
	%D%/cross/amqp_failover/pom.xml %D%/cross/amqp_failover/go.mod %D%/cross/amqp_failover/go.sum %D%/cross/amqp_failover/pika_client.py \
	%D%/cross/amqp_failover/amqplib_client.js %D%/cross/amqp_failover/JavaClient.java %D%/cross/amqp_failover/go_client.go

compat_run = $(srcdir)/%D%/run --build $(abs_builddir) $(COMPAT_FLAGS)

.PHONY: check-compat check-compat-real
check-compat: gomsgd $(compat_programs)
	$(compat_run)
check-compat-real: $(compat_programs)
	$(compat_run) --real
