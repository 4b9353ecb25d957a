noinst_LIBRARIES += libamqp.a
libamqp_a_CFLAGS = $(AM_CFLAGS) $(CRYPTO_CFLAGS)
libamqp_a_SOURCES = \
	%D%/access.c %D%/ack.c %D%/amqp.h %D%/attach.c %D%/batch.c %D%/batch.h %D%/channel.c %D%/codec.c %D%/codec.h \
	%D%/connection.c %D%/consume.c %D%/content.h %D%/deliver.c %D%/exchange.c %D%/forward.c %D%/forward.h %D%/front.c %D%/get.c %D%/hint.c %D%/ids.c %D%/ids.h \
	%D%/methods.def %D%/properties.def %D%/publish.c %D%/queue.c %D%/queue_args.c %D%/queues.h \
	%D%/remote.c %D%/remote.h %D%/remote_private.h %D%/replies.def %D%/reply.c %D%/reply.h %D%/route.c %D%/route.h %D%/serve.c %D%/serve.h %D%/served.c %D%/served.h %D%/session.c %D%/session.h %D%/stats.c %D%/stats.h \
	%D%/table.c %D%/table.h %D%/tx.c %D%/unacked.c
