package main

import (
	"crypto/sha1"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"hash"
	"net/http"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

const nfcPrefix = "/nfc/"

// Leases are the exports that are under way. The simulator has none of machines: what is asked about them is answered here, but for their
// properties, which it finds like those of any object.
type Leases struct {
	lock   sync.Mutex
	known  map[string]*Lease
	number int
	// How many seconds one lives without being told that it is still wanted.
	timeout int32
	// Whether devices are told with the name of this server instead of `*`, and its certificate.
	named bool
	// Whether what was sent is said to have another checksum than it has, …
	wrong bool
	// … and hosts another certificate.
	mistaken bool
	// Whether a disk is packed once, and sent from there: real hosts are faster than one that packs on a processor of the test.
	before bool
}

// Lease is one of them, as the simulator knows it.
type Lease struct {
	mo.HttpNfcLease

	disks map[string]*types.VirtualDisk
	// As of when they are sent; none: as they are.
	snapshot *types.ManagedObjectReference
	sent     map[string]types.HttpNfcLeaseManifestEntry
	keys     map[string]string
	told     time.Time
	finished bool
}

// While a machine is exported nobody does any of these to it.
var blocked = map[string]bool{"CreateSnapshot_Task": true, "RemoveSnapshot_Task": true}

// export answers ExportVm: for a machine that is off and is not being exported.
func (f *Front) export(w *answer, vm types.ManagedObjectReference, address string) {
	machine, known := simulator.Map.Get(vm).(*simulator.VirtualMachine)
	if !known {
		fault(w, "ManagedObjectNotFound", fmt.Sprintf(`<obj type="%s">%s</obj>`, vm.Type, vm.Value))
		return
	}
	if machine.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff {
		fault(w, "InvalidPowerState", "<requestedState>poweredOff</requestedState><existingState>poweredOn</existingState>")
		return
	}
	f.lease(w, "ExportVm", vm, nil, machine.Config.Hardware.Device, address)
}

// exportSnapshot answers ExportSnapshot: whether the machine runs is no matter.
func (f *Front) exportSnapshot(w *answer, asked types.ManagedObjectReference, address string) {
	snapshot, known := simulator.Map.Get(asked).(*simulator.VirtualMachineSnapshot)
	if !known {
		fault(w, "ManagedObjectNotFound", fmt.Sprintf(`<obj type="%s">%s</obj>`, asked.Type, asked.Value))
		return
	}
	f.lease(w, "ExportSnapshot", snapshot.Vm, &asked, snapshot.Config.Hardware.Device, address)
}

// holds says whether this machine, or that of this snapshot, is being exported.
func (l *Leases) holds(reference types.ManagedObjectReference) bool {
	if snapshot, ok := simulator.Map.Get(reference).(*simulator.VirtualMachineSnapshot); ok {
		reference = snapshot.Vm
	}
	l.lock.Lock()
	defer l.lock.Unlock()
	return l.holding(reference)
}

func (l *Leases) holding(vm types.ManagedObjectReference) bool {
	for _, lease := range l.known {
		if lease.Info.Entity == vm && !lease.finished {
			return true
		}
	}
	return false
}

// count tells how many are under way.
func (l *Leases) count() int {
	l.lock.Lock()
	defer l.lock.Unlock()
	number := 0
	for _, lease := range l.known {
		if !lease.finished {
			number++
		}
	}
	return number
}

func busy(w *answer) {
	fault(w, "TaskInProgress", `<task type="Task">task-1</task>`)
}

// lease begins one of these disks.
func (f *Front) lease(
	w *answer, call string, vm types.ManagedObjectReference, snapshot *types.ManagedObjectReference, hardware []types.BaseVirtualDevice, address string,
) {
	leases := &f.leases
	leases.lock.Lock()
	defer leases.lock.Unlock()
	if leases.holding(vm) {
		busy(w)
		return
	}
	leases.number++
	id := fmt.Sprintf("session[52]%d", leases.number)
	lease := &Lease{
		disks: map[string]*types.VirtualDisk{}, keys: map[string]string{}, told: time.Now(),
		sent: map[string]types.HttpNfcLeaseManifestEntry{}, snapshot: snapshot,
	}
	lease.Self = types.ManagedObjectReference{Type: "HttpNfcLease", Value: id}
	lease.State = types.HttpNfcLeaseStateInitializing
	lease.Info = &types.HttpNfcLeaseInfo{Lease: lease.Self, Entity: vm, LeaseTimeout: leases.timeout}
	host, thumbprint := "*", ""
	if leases.named {
		host = "localhost" + address[strings.LastIndex(address, ":"):]
		digest := sha1.Sum(f.certificates.leaf())
		if leases.mistaken {
			digest = [sha1.Size]byte{}
		}
		thumbprint = strings.ToUpper(strings.TrimSuffix(fmt.Sprintf("% x", digest[:]), " "))
		thumbprint = strings.ReplaceAll(thumbprint, " ", ":")
	}
	devices := object.VirtualDeviceList(hardware)
	for _, device := range devices {
		disk, ok := device.(*types.VirtualDisk)
		if !ok {
			continue
		}
		name := fmt.Sprintf("disk-%d.vmdk", len(lease.disks))
		controller := devices.FindByKey(disk.ControllerKey)
		kind := strings.TrimPrefix(fmt.Sprintf("%T", controller), "*types.")
		bus := controller.(types.BaseVirtualController).GetVirtualController().BusNumber
		key := fmt.Sprintf("/%s/%s%d:%d", vm.Value, kind, bus, *disk.UnitNumber)
		lease.disks[name], lease.keys[name] = disk, key
		lease.Info.TotalDiskCapacityInKB += disk.CapacityInKB
		lease.Info.DeviceUrl = append(lease.Info.DeviceUrl, types.HttpNfcLeaseDeviceUrl{
			Key: key, ImportKey: key, Url: fmt.Sprintf("https://%s%s%s/%s", host, nfcPrefix, id, name), Disk: types.NewBool(true),
			SslThumbprint: thumbprint, TargetId: name,
		})
	}
	// What is no disk comes along as well.
	lease.Info.DeviceUrl = append(lease.Info.DeviceUrl, types.HttpNfcLeaseDeviceUrl{
		Key: "/" + vm.Value + "/nvram", Url: fmt.Sprintf("https://%s%s%s/disk.nvram", host, nfcPrefix, id), Disk: types.NewBool(false),
	})
	leases.known[id] = lease
	simulator.Map.Put(lease)
	go leases.live(lease)
	respond(w, call, `<returnval type="HttpNfcLease">`+id+`</returnval>`)
}

// live makes a lease be ready after a moment, and ends it when it was not heard of for too long.
func (l *Leases) live(lease *Lease) {
	time.Sleep(50 * time.Millisecond)
	simulator.Map.WithLock(lease, func() { lease.State = types.HttpNfcLeaseStateReady })
	for {
		time.Sleep(50 * time.Millisecond)
		l.lock.Lock()
		is_over := lease.finished || time.Since(lease.told) > time.Duration(lease.Info.LeaseTimeout)*time.Second
		expired := is_over && !lease.finished
		if expired {
			lease.finished = true
		}
		l.lock.Unlock()
		if expired {
			simulator.Map.WithLock(lease, func() {
				lease.State = types.HttpNfcLeaseStateError
				lease.Error = &types.LocalizedMethodFault{Fault: &types.Timedout{}, LocalizedMessage: "Operation timed out."}
			})
		}
		if is_over {
			return
		}
	}
}

// leased answers what is asked about exports; says whether it was.
func (f *Front) leased(w *answer, r *http.Request, asked interface{}) bool {
	switch asked := asked.(type) {
	case *types.ExportVm:
		f.export(w, asked.This, r.Host)
	case *types.ExportSnapshot:
		f.exportSnapshot(w, asked.This, r.Host)
	case *types.CreateDescriptor:
		f.envelop(w, asked)
	case *types.HttpNfcLeaseProgress:
		f.onLease(w, asked.This, "HttpNfcLeaseProgress", func(lease *Lease) string {
			lease.told, lease.TransferProgress = time.Now(), asked.Percent
			return ""
		})
	case *types.HttpNfcLeaseGetManifest:
		f.onLease(w, asked.This, "HttpNfcLeaseGetManifest", func(lease *Lease) string {
			var entries strings.Builder
			for _, entry := range lease.sent {
				fmt.Fprintf(&entries, "<returnval><key>%s</key><sha1>%s</sha1><size>%d</size><disk>true</disk></returnval>",
					entry.Key, entry.Sha1, entry.Size)
			}
			return entries.String()
		})
	case *types.HttpNfcLeaseComplete:
		f.onLease(w, asked.This, "HttpNfcLeaseComplete", func(lease *Lease) string {
			lease.finished, lease.State = true, types.HttpNfcLeaseStateDone
			return ""
		})
	case *types.HttpNfcLeaseAbort:
		f.onLease(w, asked.This, "HttpNfcLeaseAbort", func(lease *Lease) string {
			lease.finished, lease.State = true, types.HttpNfcLeaseStateDone
			return ""
		})
	default:
		return false
	}
	return true
}

func (f *Front) onLease(w *answer, which types.ManagedObjectReference, name string, work func(*Lease) string) {
	f.leases.lock.Lock()
	defer f.leases.lock.Unlock()
	lease := f.leases.known[which.Value]
	switch {
	case lease == nil:
		fault(w, "ManagedObjectNotFound", fmt.Sprintf(`<obj type="%s">%s</obj>`, which.Type, which.Value))
	case lease.finished:
		fault(w, "Timedout", "")
	default:
		var inner string
		simulator.Map.WithLock(lease, func() { inner = work(lease) })
		respond(w, name, inner)
	}
}

// stream sends a disk of a lease as hosts do, packed while it is read.
func (f *Front) stream(w *answer, r *http.Request) {
	id, name := path.Base(path.Dir(r.URL.Path)), path.Base(r.URL.Path)
	f.leases.lock.Lock()
	lease := f.leases.known[id]
	var disk *types.VirtualDisk
	if lease != nil && !lease.finished {
		disk = lease.disks[name]
	}
	f.leases.lock.Unlock()
	due := f.due("nfc", r.URL.Path)
	if due != nil && due.instead(w) {
		return
	}
	if disk == nil || r.Method != http.MethodGet {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	bytes, err := f.estate.life.open(lease.Info.Entity, disk.Key, lease.snapshot)
	if err != nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	defer bytes.Close()
	w.Header().Set("Content-Type", "application/x-vnd.vmware-streamVmdk")
	sent := &counted{to: w, digest: sha1.New(), lease: lease, leases: &f.leases, limit: -1}
	if due != nil {
		sent.kind, sent.limit = due.Kind, due.After
	}
	if f.leases.before {
		packed := lease.Info.Entity.Value + "-" + name
		if lease.snapshot != nil {
			packed = lease.snapshot.Value + "-" + packed
		}
		err = sentBefore(sent, packed, bytes, disk.CapacityInKB*1024)
	} else {
		err = streamed(sent, bytes, disk.CapacityInKB*1024)
	}
	if err != nil || sent.ended {
		return
	}
	f.leases.lock.Lock()
	defer f.leases.lock.Unlock()
	entry := types.HttpNfcLeaseManifestEntry{Key: lease.keys[name], Sha1: hex.EncodeToString(sent.digest.Sum(nil)), Size: sent.bytes}
	if f.leases.wrong {
		entry.Sha1 = strings.Repeat("0", 40)
	}
	lease.sent[name] = entry
}

// counted is what is sent of a disk: with its checksum, until something goes wrong with it.
type counted struct {
	to     *answer
	digest hash.Hash
	bytes  int64
	lease  *Lease
	leases *Leases
	kind   string
	limit  int64
	ended  bool
}

func (c *counted) Write(data []byte) (int, error) {
	c.leases.lock.Lock()
	over := c.lease.finished
	c.leases.lock.Unlock()
	if over {
		reset(c.to.ResponseWriter)
		return 0, os.ErrDeadlineExceeded
	}
	if c.limit >= 0 && c.bytes+int64(len(data)) > c.limit {
		c.ended = true
		switch c.kind {
		case "truncated":
			// As a host ends that gives up: the answer is whole, and what is in it is not.
			return 0, os.ErrClosed
		case "damaged":
			data = append([]byte{}, data...)
			for number := range data {
				data[number] ^= 0x55
			}
			c.limit, c.ended = -1, false
		case "stalled":
			if flusher, ok := c.to.ResponseWriter.(http.Flusher); ok {
				flusher.Flush()
			}
			hang(c.to)
			return 0, os.ErrClosed
		case "dripping":
			if err := drip(c.to, data); err != nil {
				return 0, err
			}
			// A disk is longer than what anybody waits for.
			return len(data), nil
		default:
			reset(c.to.ResponseWriter)
			return 0, os.ErrClosed
		}
	}
	c.digest.Write(data)
	c.bytes += int64(len(data))
	return c.to.Write(data)
}

// envelop answers CreateDescriptor with an envelope as a vCenter writes it, with what matters of it.
func (f *Front) envelop(w *answer, asked *types.CreateDescriptor) {
	vm, known := simulator.Map.Get(asked.Obj).(*simulator.VirtualMachine)
	if !known {
		fault(w, "ManagedObjectNotFound", fmt.Sprintf(`<obj type="%s">%s</obj>`, asked.Obj.Type, asked.Obj.Value))
		return
	}
	var references, disks, items strings.Builder
	devices := object.VirtualDeviceList(vm.Config.Hardware.Device)
	number := 0
	for _, device := range devices {
		disk, ok := device.(*types.VirtualDisk)
		if !ok {
			continue
		}
		number++
		for _, file := range asked.Cdp.OvfFiles {
			if !strings.HasSuffix(file.DeviceId, fmt.Sprintf(":%d", *disk.UnitNumber)) || number > len(asked.Cdp.OvfFiles) || asked.Cdp.OvfFiles[number-1].DeviceId != file.DeviceId {
				continue
			}
			fmt.Fprintf(&references, `<File ovf:href="%s" ovf:id="file%d" ovf:size="%d"/>`, escaped(file.Path), number, file.Size)
			fmt.Fprintf(&disks, `<Disk ovf:capacity="%d" ovf:capacityAllocationUnits="byte" ovf:diskId="vmdisk%d" ovf:fileRef="file%d" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>`,
				disk.CapacityInKB*1024, number, number)
			fmt.Fprintf(&items, `<Item><rasd:AddressOnParent>%d</rasd:AddressOnParent><rasd:ElementName>Hard disk %d</rasd:ElementName><rasd:HostResource>ovf:/disk/vmdisk%d</rasd:HostResource><rasd:InstanceID>%d</rasd:InstanceID><rasd:Parent>3</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>`,
				number-1, number, number, 10+number)
		}
	}
	text := fmt.Sprintf(descriptorOVF, references.String(), disks.String(), escaped(asked.Cdp.Name), escaped(asked.Cdp.Name),
		vm.Config.Hardware.NumCPU, vm.Config.Hardware.MemoryMB, items.String())
	respond(w, "CreateDescriptor", "<returnval><ovfDescriptor>"+escaped(text)+"</ovfDescriptor></returnval>")
}

const descriptorOVF = `<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData">
<References>%s</References>
<DiskSection><Info>Virtual disk information</Info>%s</DiskSection>
<VirtualSystem ovf:id="%s"><Info>A virtual machine</Info><Name>%s</Name>
<OperatingSystemSection ovf:id="1"><Info>The kind of installed guest operating system</Info></OperatingSystemSection>
<VirtualHardwareSection><Info>Virtual hardware requirements</Info>
<Item><rasd:ElementName>processors</rasd:ElementName><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>%d</rasd:VirtualQuantity></Item>
<Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:ElementName>memory</rasd:ElementName><rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>%d</rasd:VirtualQuantity></Item>
<Item><rasd:Address>0</rasd:Address><rasd:ElementName>SCSI Controller 0</rasd:ElementName><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceSubType>VirtualSCSI</rasd:ResourceSubType><rasd:ResourceType>6</rasd:ResourceType></Item>
%s</VirtualHardwareSection></VirtualSystem></Envelope>
`

func escaped(text string) string {
	var to strings.Builder
	_ = xml.EscapeText(&to, []byte(text))
	return to.String()
}

func respond(w *answer, name, inner string) {
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	fmt.Fprintf(w, envelope, fmt.Sprintf(`<%sResponse xmlns="urn:vim25">%s</%sResponse>`, name, inner, name))
}
