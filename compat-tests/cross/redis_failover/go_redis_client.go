// go-redis' cluster client (see run).
package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"
)

func main() {
	ctx := context.Background()
	r := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addresses})
	key := func(n int) string { return fmt.Sprintf("{%s}:%s:%d", lanes[n%len(lanes)], name, n) }
	steady(func(n int) error {
		return r.Set(ctx, key(n), n, 0).Err()
	}, func(count int, found func(int)) error {
		for n := 0; n < count; n++ {
			v, err := r.Get(ctx, key(n)).Result()
			if err != nil && err != redis.Nil {
				return err
			}
			if v == strconv.Itoa(n) {
				found(n)
			}
		}
		return nil
	})
}
