# protocols/kafka
