noinst_LIBRARIES += libamqp.a
libamqp_a_SOURCES = \
	%D%/codec.c %D%/codec.h %D%/methods.def %D%/properties.def %D%/replies.def %D%/table.c %D%/table.h
