# cluster/topology
