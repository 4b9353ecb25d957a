noinst_LIBRARIES += libkafka.a
libkafka_a_SOURCES = \
	%D%/admin.c %D%/admin.h %D%/api.h %D%/apis.c %D%/apis.def %D%/away.c %D%/cluster.c %D%/config_table.c %D%/config_table.h %D%/configs.c %D%/cut_off.c \
	%D%/describe_producers.c %D%/discovery.c %D%/errors.c %D%/errors.def %D%/fetch.c %D%/fetch.h %D%/fetch_answer.c %D%/fetch_session.c %D%/front.h \
	%D%/group_admin.c %D%/group_offsets.c %D%/group_requests.c %D%/message.c %D%/message.h %D%/offsets.c %D%/produce.c \
	%D%/producer_ids.c %D%/session.c %D%/session.h %D%/topic_access.c %D%/topic_configs.def %D%/topics.c %D%/upkeep.c \
	%D%/messages/alter_configs.c %D%/messages/api_versions.c %D%/messages/create_partitions.c %D%/messages/create_topics.c \
	%D%/messages/delete_groups.c %D%/messages/delete_records.c %D%/messages/delete_topics.c %D%/messages/describe_cluster.c \
	%D%/messages/describe_configs.c %D%/messages/describe_groups.c %D%/messages/describe_producers.c %D%/messages/fetch.c %D%/messages/find_coordinator.c \
	%D%/messages/heartbeat.c %D%/messages/incremental_alter_configs.c %D%/messages/init_producer_id.c %D%/messages/join_group.c \
	%D%/messages/leave_group.c %D%/messages/list_groups.c %D%/messages/list_offsets.c %D%/messages/metadata.c \
	%D%/messages/offset_commit.c %D%/messages/offset_delete.c %D%/messages/offset_fetch.c %D%/messages/offset_for_leader_epoch.c \
	%D%/messages/produce.c %D%/messages/sync_group.c
