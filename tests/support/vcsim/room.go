package main

import (
	"fmt"

	"github.com/vmware/govmomi/simulator"
)

// A datastore has this much, whatever lies in it.
const storeBytes = 100 << 30

// Room is how much of a datastore is free, in hundredths.
type Room struct {
	Datastore string `json:"datastore"`
	Percent   int64  `json:"percent"`
}

// tell makes the datastores of that name say so; without a name, all.
func (r *Room) tell() error {
	found := false
	for _, entity := range simulator.Map.All("Datastore") {
		store := entity.(*simulator.Datastore)
		if r.Datastore != "" && store.Name != r.Datastore {
			continue
		}
		found = true
		simulator.Map.WithLock(store, func() {
			store.Summary.Capacity = storeBytes
			store.Summary.FreeSpace = storeBytes / 100 * r.Percent
		})
	}
	if !found {
		return fmt.Errorf("no datastore %s", r.Datastore)
	}
	return nil
}
