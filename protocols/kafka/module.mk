noinst_LIBRARIES += libkafka.a
libkafka_a_SOURCES = \
	%D%/api.h %D%/apis.def %D%/errors.c %D%/errors.def %D%/message.c %D%/message.h \
	%D%/messages/alter_configs.c %D%/messages/api_versions.c %D%/messages/create_partitions.c %D%/messages/create_topics.c \
	%D%/messages/delete_groups.c %D%/messages/delete_records.c %D%/messages/delete_topics.c %D%/messages/describe_cluster.c \
	%D%/messages/describe_configs.c %D%/messages/describe_groups.c %D%/messages/fetch.c %D%/messages/find_coordinator.c \
	%D%/messages/heartbeat.c %D%/messages/incremental_alter_configs.c %D%/messages/init_producer_id.c %D%/messages/join_group.c \
	%D%/messages/leave_group.c %D%/messages/list_groups.c %D%/messages/list_offsets.c %D%/messages/metadata.c \
	%D%/messages/offset_commit.c %D%/messages/offset_delete.c %D%/messages/offset_fetch.c %D%/messages/offset_for_leader_epoch.c \
	%D%/messages/produce.c %D%/messages/sync_group.c
