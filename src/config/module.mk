noinst_LIBRARIES += libconfig.a
libconfig_a_SOURCES = \
	%D%/config.c %D%/config.h %D%/internal.h %D%/option.c %D%/options.def %D%/value.c %D%/yaml.c
libconfig_a_CFLAGS = $(AM_CFLAGS) $(YAML_CFLAGS)
