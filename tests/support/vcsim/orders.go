package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// Order is what a test wants of a running server; one thing at a time.
type Order struct {
	// Something goes wrong from now on.
	Fault *Fault `json:"fault"`
	// Nothing goes wrong any more.
	Calm bool `json:"calm"`
	// All sessions are over.
	Forget bool `json:"forget"`
	// Another certificate.
	Certificate string `json:"certificate"`
	// Of the certificate in use: only to be told.
	Thumbprint bool `json:"thumbprint"`
	// Bytes per second and connection; 0 is no limit.
	Throttle *int64 `json:"throttle"`
	// A machine's guest behaves otherwise, or its power is switched.
	Power *PowerOrder `json:"power"`
	// How this machine is now: only to be told.
	Look string `json:"look"`
}

// obey carries out orders until there are no more.
func obey(orders *bufio.Reader, front *Front, certificates *Authority) {
	for {
		line, err := orders.ReadBytes('\n')
		if err != nil {
			return
		}
		var order Order
		answer := "done"
		if err = json.Unmarshal(line, &order); err == nil {
			switch {
			case order.Fault != nil:
				front.lock.Lock()
				front.faults = append(front.faults, order.Fault)
				front.lock.Unlock()
			case order.Calm:
				front.lock.Lock()
				front.faults = nil
				front.lock.Unlock()
			case order.Forget:
				front.forgetAll()
			case order.Certificate != "":
				err = certificates.become(order.Certificate)
			case order.Thumbprint:
				digest := sha256.Sum256(certificates.leaf())
				answer = hex.EncodeToString(digest[:])
			case order.Power != nil:
				err = front.estate.switched(order.Power)
			case order.Look != "":
				answer, err = looked(order.Look)
			case order.Throttle != nil:
				front.lock.Lock()
				front.throttle = *order.Throttle
				front.lock.Unlock()
			}
		}
		if err != nil {
			answer = "failed: " + err.Error()
		}
		fmt.Println(answer)
	}
}
