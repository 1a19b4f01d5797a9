package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
)

// Order is what a test wants of a running server; one thing at a time.
type Order struct {
	// Something goes wrong from now on.
	Fault *Fault `json:"fault"`
	// Nothing goes wrong any more.
	Calm bool `json:"calm"`
	// All sessions are over.
	Forget bool `json:"forget"`
	// How many sessions there are: only to be told.
	Sessions bool `json:"sessions"`
	// How many exports are under way: only to be told.
	Leases bool `json:"leases"`
	// The privileges that the account has not; none is lacked when the list is empty.
	Lacks *[]string `json:"lacks"`
	// Another certificate.
	Certificate string `json:"certificate"`
	// Of the certificate in use: only to be told.
	Thumbprint bool `json:"thumbprint"`
	// Bytes per second and connection; 0 is no limit.
	Throttle *int64 `json:"throttle"`
	// A guest writes what is in a file to a disk.
	Write *Part `json:"write"`
	// What a guest sees of a disk goes to a file.
	Now *Part `json:"now"`
	// What is known of changes of this machine's disks is lost.
	ResetTracking string `json:"reset_tracking"`
	// How questions for areas in use are answered: see Life.
	Areas *string `json:"areas"`
	// A machine's guest behaves otherwise, or its power is switched.
	Power *PowerOrder `json:"power"`
	// This machine, which is off, is taken out of the inventory.
	Gone string `json:"gone"`
	// How this machine is now: only to be told.
	Look string `json:"look"`
	// How much of a datastore is free.
	Room *Room `json:"room"`
}

// Part is one of a disk of a machine; disks are counted from 0.
type Part struct {
	VM     string `json:"vm"`
	Disk   int    `json:"disk"`
	Offset int64  `json:"offset"`
	File   string `json:"file"`
	// Of "now": as of this snapshot instead.
	Snapshot string `json:"snapshot"`
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
			case order.Sessions:
				answer = strconv.Itoa(front.count())
			case order.Leases:
				answer = strconv.Itoa(front.leases.count())
			case order.Lacks != nil:
				front.lack(*order.Lacks)
			case order.Certificate != "":
				err = certificates.become(order.Certificate)
			case order.Thumbprint:
				digest := sha256.Sum256(certificates.leaf())
				answer = hex.EncodeToString(digest[:])
			case order.Power != nil:
				err = front.estate.switched(order.Power)
			case order.Gone != "":
				err = front.estate.lost(order.Gone)
			case order.Look != "":
				answer, err = looked(order.Look)
			case order.Throttle != nil:
				front.lock.Lock()
				front.throttle = *order.Throttle
				front.lock.Unlock()
			case order.Write != nil:
				err = front.estate.life.obey(order.Write)
			case order.Now != nil:
				err = front.estate.life.tell(order.Now)
			case order.ResetTracking != "":
				err = front.estate.life.reset(order.ResetTracking)
			case order.Room != nil:
				err = order.Room.tell()
			case order.Areas != nil:
				front.estate.life.lock.Lock()
				front.estate.life.answers = *order.Areas
				front.estate.life.lock.Unlock()
			}
		}
		if err != nil {
			answer = "failed: " + err.Error()
		}
		fmt.Println(answer)
	}
}
