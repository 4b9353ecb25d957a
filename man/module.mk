dist_man_MANS += %D%/gomsgctl.1 %D%/gomsgd.8
