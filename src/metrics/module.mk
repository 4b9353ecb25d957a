noinst_LIBRARIES += libmetrics.a
libmetrics_a_SOURCES = \
	%D%/hist.c %D%/metrics.c %D%/metrics.def %D%/metrics.h %D%/registry.h %D%/render.c
