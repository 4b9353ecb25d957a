dist_man_MANS += %D%/gomsgctl.1 %D%/gomsgd.8 %D%/gomsg.yaml.5
