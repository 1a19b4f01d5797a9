package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	seekData = 3
	seekHole = 4
	// Hosts answer in pieces; so does this, to be asked again.
	mostAreas = 2000
)

var changes int64

// newChangeIDs gives every disk of a machine whose changes are tracked a new change id, as a snapshot does.
func newChangeIDs(reference types.ManagedObjectReference) {
	vm, ok := simulator.Map.Get(reference).(*simulator.VirtualMachine)
	if !ok || vm.Config.ChangeTrackingEnabled == nil || !*vm.Config.ChangeTrackingEnabled {
		return
	}
	simulator.Map.WithLock(vm, func() {
		for _, device := range vm.Config.Hardware.Device {
			if disk, ok := device.(*types.VirtualDisk); ok {
				if backing, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok {
					backing.ChangeId = fmt.Sprintf("52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63/%d", atomic.AddInt64(&changes, 1))
				}
			}
		}
	})
}

// changedAreas answers which areas of a disk are in use, out of the holes of its file. Only "*" is known: what has changed since
// a change id would need a history that no file has.
func (f *Front) changedAreas(w *answer, asked *types.QueryChangedDiskAreas) {
	vm, known := simulator.Map.Get(asked.This).(*simulator.VirtualMachine)
	switch {
	case !known:
		fault(w, "ManagedObjectNotFound", fmt.Sprintf(`<obj type="%s">%s</obj>`, asked.This.Type, asked.This.Value))
		return
	case asked.ChangeId != "*" || asked.Snapshot == nil:
		fault(w, "FileFault", "<file>change tracking</file>")
		return
	case vm.Config.ChangeTrackingEnabled == nil || !*vm.Config.ChangeTrackingEnabled:
		fault(w, "FileFault", "<file>change tracking is off</file>")
		return
	}
	disk, known := object.VirtualDeviceList(vm.Config.Hardware.Device).FindByKey(asked.DeviceKey).(*types.VirtualDisk)
	if !known {
		fault(w, "InvalidArgument", "<invalidProperty>deviceKey</invalidProperty>")
		return
	}
	file, err := f.flat(disk)
	if err != nil {
		fault(w, "FileFault", "<file>disk</file>")
		return
	}
	defer file.Close()
	size := disk.CapacityInKB * 1024
	var areas strings.Builder
	end, number := size, 0
	for at := asked.StartOffset; at < size; number++ {
		data, err := syscall.Seek(int(file.Fd()), at, seekData)
		if err != nil || data >= size {
			break
		}
		hole, err := syscall.Seek(int(file.Fd()), data, seekHole)
		if err != nil || hole > size {
			hole = size
		}
		if number == mostAreas {
			end = data
			break
		}
		fmt.Fprintf(&areas, "<changedArea><start>%d</start><length>%d</length></changedArea>", data, hole-data)
		at = hole
	}
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	fmt.Fprintf(w, envelope, fmt.Sprintf(
		`<QueryChangedDiskAreasResponse xmlns="urn:vim25"><returnval><startOffset>%d</startOffset><length>%d</length>%s</returnval></QueryChangedDiskAreasResponse>`,
		asked.StartOffset, end-asked.StartOffset, areas.String()))
}

// flat opens the file with the bytes of a disk.
func (f *Front) flat(disk *types.VirtualDisk) (*os.File, error) {
	var at object.DatastorePath
	backing, ok := disk.Backing.(types.BaseVirtualDeviceFileBackingInfo)
	if !ok || !at.FromString(backing.GetVirtualDeviceFileBackingInfo().FileName) {
		return nil, os.ErrNotExist
	}
	store := simulator.Map.Get(*backing.GetVirtualDeviceFileBackingInfo().Datastore).(*simulator.Datastore)
	return os.Open(filepath.Join(store.Info.GetDatastoreInfo().Url, strings.TrimSuffix(at.Path, ".vmdk")+"-flat.vmdk"))
}

const envelope = `<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body>%s</soapenv:Body></soapenv:Envelope>`

func fault(w *answer, kind, detail string) {
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	w.WriteHeader(http.StatusInternalServerError)
	fmt.Fprintf(w, envelope, fmt.Sprintf(
		`<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>Error caused by file</faultstring><detail><%sFault xmlns="urn:vim25" xsi:type="%s">%s</%sFault></detail></soapenv:Fault>`,
		kind, kind, detail, kind))
}
