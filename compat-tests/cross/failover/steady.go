// What every Go client of a trial does (trial.py beside it says what a client is).
package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

var (
	addresses = strings.Split(os.Args[1], ",")
	name      = os.Args[2]
	lanes     = strings.Split(os.Args[3], ",")
)

func say(word string, text interface{}) {
	fmt.Println(word, strings.ReplaceAll(fmt.Sprint(text), "\n", " "))
}

// steady writes until standard input ends: write returns when n is acknowledged; read tells each number below count that it finds.
func steady(write func(n int) error, read func(count int, found func(n int)) error) {
	var over int32
	go func() {
		io.Copy(io.Discard, os.Stdin)
		atomic.StoreInt32(&over, 1)
	}()
	n := 0
	for ; atomic.LoadInt32(&over) == 0; n++ {
		if err := write(n); err != nil {
			say("error", err)
			time.Sleep(10 * time.Millisecond)
		} else {
			say("acked", n)
		}
		time.Sleep(time.Millisecond)
	}
	for tries := 0; tries < 5; tries++ {
		err := read(n, func(n int) { say("read", n) })
		if err == nil {
			os.Exit(0)
		}
		say("error", err)
		time.Sleep(time.Second)
	}
	os.Exit(1)
}
