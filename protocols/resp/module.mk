noinst_LIBRARIES += libresp.a
libresp_a_SOURCES = \
	%D%/admin.h %D%/blocked.c %D%/blocked.h %D%/cluster.c %D%/cluster.h %D%/cmd_client.c %D%/cmd_cluster.c %D%/cmd_command.c %D%/cmd_config.c \
	%D%/cmd_connection.c %D%/cmd_generic.c %D%/cmd_hash.c %D%/cmd_keys.c %D%/cmd_list.c %D%/cmd_pubsub.c %D%/cmd_server.c %D%/cmd_set.c \
	%D%/cmd_string.c %D%/command.c %D%/command.h %D%/commands.def %D%/command_syntax.c %D%/command_syntax.h \
	%D%/error.c %D%/errors.def %D%/exec.c %D%/exec.h %D%/expiry.h %D%/front.c %D%/gather.c %D%/gather.h \
	%D%/handlers.h %D%/hold.c %D%/info.c %D%/info.h %D%/keys.h %D%/pubsub.c %D%/pubsub.h %D%/reply.c %D%/reply.h \
	%D%/request.c %D%/request.h %D%/request_parser.h %D%/request_slow.c %D%/resp.h %D%/run.h \
	%D%/session.c %D%/session.h %D%/slowlog.c %D%/slowlog.h %D%/strmap.c %D%/strmap.h \
	%D%/transaction.c %D%/transaction.h %D%/wait.c %D%/wait.h
libresp_a_CFLAGS = $(AM_CFLAGS) $(HIREDIS_CFLAGS)
