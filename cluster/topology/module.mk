noinst_LIBRARIES += libtopology.a
libtopology_a_SOURCES = \
	%D%/again.c %D%/changes.c %D%/codec.c %D%/commands.c %D%/commands.def %D%/commands.h %D%/form_plan.c %D%/form_plan.h %D%/forming.c %D%/host.c %D%/identity.c %D%/identity.h %D%/join.c %D%/keys.c %D%/match.c %D%/members.c \
	%D%/object.c %D%/object.h %D%/partition.c %D%/partition.h %D%/pmap.c %D%/pmap.h %D%/private.h %D%/proposals.c %D%/state.c %D%/state.h %D%/state_node.c %D%/state_partition.c %D%/state_private.h %D%/store.c %D%/topology.h %D%/view.c %D%/voters_plan.c %D%/voters_plan.h
