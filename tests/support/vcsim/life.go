package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// Hosts keep account of changes in blocks of so many bytes.
const trackedBytes = 64 << 10

var (
	errRefused  = errors.New("refused")
	errChangeID = errors.New("changeId")
	errDevice   = errors.New("deviceKey")
)

// Life is what becomes of the disks of machines: what their guests write, where that goes while there are snapshots, and what is known of it
// where changes are tracked. The simulator's own snapshots are only names.
//
//	web.vmdk ◀─ web-000001.vmdk ◀─ web-000002.vmdk     the machine writes to the last; a snapshot is one that nobody writes to any more
type Life struct {
	estate *Estate

	lock     sync.Mutex
	machines map[types.ManagedObjectReference]*Lived
	// How questions for areas in use are answered: as it is, or "whole" (as for a disk on NFS), or "refused".
	answers string
}

// Lived is a machine with what its disks have seen.
type Lived struct {
	ran   bool
	disks map[int32]*History
}

// History is that of a disk.
type History struct {
	layers []*Layer
	frozen map[types.ManagedObjectReference]Frozen
	// Whether changes are tracked; being wanted, they are from the next snapshot or start on.
	tracked bool
	// What change ids begin with: another one once what was known is lost.
	id string
	// Writes belong to the time between two snapshots or starts that is this; since when they are known.
	epoch, since int64
	writes       []Written
	// Whether the descriptor tells already that the content is another.
	touched bool
}

// Written is what a guest wrote, and when.
type Written struct {
	epoch int64
	span
}

// Frozen is a disk as of a snapshot.
type Frozen struct {
	layer    int
	epoch    int64
	changeID string
}

// Layer is a file of a disk: all of it, or what was written after a snapshot.
type Layer struct {
	backing  *types.VirtualDiskFlatVer2BackingInfo
	path     string
	is_delta bool
	spans    spans
}

func newLife(estate *Estate) *Life {
	return &Life{estate: estate, machines: map[types.ManagedObjectReference]*Lived{}}
}

// during does something with a machine, and looks at what it was then.
func (l *Life) during(reference types.ManagedObjectReference, work func()) {
	if snapshot, ok := simulator.Map.Get(reference).(*simulator.VirtualMachineSnapshot); ok {
		reference = snapshot.Vm
	}
	l.lock.Lock()
	defer l.lock.Unlock()
	vm, ok := simulator.Map.Get(reference).(*simulator.VirtualMachine)
	if ok {
		l.settle(vm)
	}
	work()
	if ok {
		l.settle(vm)
	}
}

// settle makes the disks of a machine be what its snapshots, its power and its configuration say.
func (l *Life) settle(vm *simulator.VirtualMachine) {
	lived := l.lived(vm)
	wants := vm.Config.ChangeTrackingEnabled != nil && *vm.Config.ChangeTrackingEnabled
	runs := vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn
	started := runs && !lived.ran
	lived.ran = runs
	var snapshots []types.ManagedObjectReference
	if vm.Snapshot != nil {
		snapshots = references(vm.Snapshot.RootSnapshotList)
	}
	for _, snapshot := range snapshots {
		unshare(snapshot)
	}
	for key, history := range lived.disks {
		if !wants {
			history.tracked = false
		}
		if started {
			history.next(wants)
		}
		for _, snapshot := range snapshots {
			if _, known := history.frozen[snapshot]; !known && !history.is_independent() {
				l.freeze(history, snapshot, wants)
			}
		}
		for snapshot := range history.frozen {
			if !contains(snapshots, snapshot) {
				history.merge(snapshot)
			}
		}
		history.show(vm, key)
	}
}

// lived knows the machine's disks; those of a kind that has no history here are left out.
func (l *Life) lived(vm *simulator.VirtualMachine) *Lived {
	lived := l.machines[vm.Self]
	if lived == nil {
		lived = &Lived{disks: map[int32]*History{}, ran: vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn}
		l.machines[vm.Self] = lived
	}
	for _, device := range vm.Config.Hardware.Device {
		disk, ok := device.(*types.VirtualDisk)
		if !ok || lived.disks[disk.Key] != nil {
			continue
		}
		backing, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
		if !ok {
			continue
		}
		base := *backing
		history := &History{
			layers: []*Layer{{backing: &base, path: strings.TrimSuffix(l.estate.path(backing), ".vmdk") + "-flat.vmdk"}},
			frozen: map[types.ManagedObjectReference]Frozen{}, epoch: 1,
		}
		history.next(vm.Config.ChangeTrackingEnabled != nil && *vm.Config.ChangeTrackingEnabled)
		lived.disks[disk.Key] = history
	}
	return lived
}

func (h *History) is_independent() bool {
	return strings.HasPrefix(h.layers[0].backing.DiskMode, "independent")
}

// next begins another time, from which on changes are tracked if that is wanted.
func (h *History) next(wants bool) {
	h.epoch++
	h.touched = false
	if wants && !h.tracked {
		h.forget()
	}
	h.tracked = wants
}

// forget begins to track changes anew: what was known is of no use any more.
func (h *History) forget() {
	random := strings.ReplaceAll(uuid.NewString(), "-", "")
	var parts []string
	for at := 0; at < len(random); at += 2 {
		parts = append(parts, random[at:at+2])
	}
	h.id = strings.Join(parts[:8], " ") + "-" + strings.Join(parts[8:], " ")
	h.since, h.writes = h.epoch, nil
}

func (h *History) changeID() string {
	if !h.tracked {
		return ""
	}
	return fmt.Sprintf("%s/%d", h.id, h.epoch)
}

// freeze makes the last file of a disk be a snapshot, and writes go to another.
func (l *Life) freeze(h *History, snapshot types.ManagedObjectReference, wants bool) {
	if wants && !h.tracked {
		h.forget()
	}
	h.tracked = wants
	top := h.layers[len(h.layers)-1]
	h.frozen[snapshot] = Frozen{layer: len(h.layers) - 1, epoch: h.epoch, changeID: h.changeID()}
	top.backing.ChangeId = h.changeID()
	h.epoch++
	h.touched = false
	first := h.layers[0].backing
	backing := *first
	backing.Parent = nil
	var descriptor string
	for number := 1; ; number++ {
		backing.FileName = fmt.Sprintf("%s-%06d.vmdk", strings.TrimSuffix(first.FileName, ".vmdk"), number)
		descriptor = l.estate.path(&backing)
		if _, err := os.Stat(descriptor); err != nil {
			break
		}
	}
	delta := strings.TrimSuffix(descriptor, ".vmdk") + "-delta.vmdk"
	size := h.size()
	text := fmt.Sprintf(deltaText, filepath.Base(l.estate.path(top.backing)), size/512, filepath.Base(delta))
	_ = os.WriteFile(descriptor, []byte(text), 0o644)
	if file, err := os.Create(delta); err == nil {
		_ = file.Truncate(size)
		file.Close()
	}
	h.layers = append(h.layers, &Layer{backing: &backing, path: delta, is_delta: true})
}

// What lies in such a file is not in VMware's form: nobody reads it but this program.
const deltaText = `# Disk DescriptorFile
version=1
encoding="UTF-8"
CID=fffffffe
parentCID=fffffffe
createType="vmfsSparse"
parentFileNameHint="%s"

# Extent description
RW %d VMFSSPARSE "%s"
`

// merge takes what was written after a snapshot into its file.
func (h *History) merge(snapshot types.ManagedObjectReference) {
	at := h.frozen[snapshot].layer
	delete(h.frozen, snapshot)
	for other, frozen := range h.frozen {
		if frozen.layer > at {
			frozen.layer--
			h.frozen[other] = frozen
		}
	}
	lower, upper := h.layers[at], h.layers[at+1]
	h.layers = append(h.layers[:at+1], h.layers[at+2:]...)
	lower.backing.ChangeId = upper.backing.ChangeId
	if from, err := os.Open(upper.path); err == nil {
		for _, span := range upper.spans {
			data := make([]byte, span.end-span.start)
			_, _ = from.ReadAt(data, span.start)
			_ = lower.write(data, span.start)
		}
		from.Close()
	}
	if len(upper.spans) > 0 {
		h.touch()
	}
	_ = os.Remove(upper.path)
	_ = os.Remove(strings.TrimSuffix(upper.path, "-delta.vmdk") + ".vmdk")
}

func (l *Layer) write(data []byte, offset int64) error {
	file, err := os.OpenFile(l.path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if l.is_delta {
		l.spans = append(l.spans, span{offset, offset + int64(len(data))}).merged()
	}
	_, err = file.WriteAt(data, offset)
	return err
}

// touch gives the first file's descriptor another content id, as a host does at the first write after a disk was opened.
func (h *History) touch() {
	descriptor := strings.TrimSuffix(h.layers[0].path, "-flat.vmdk") + ".vmdk"
	text, err := os.ReadFile(descriptor)
	if at := strings.Index(string(text), "\nCID="); err == nil && at >= 0 && at+13 <= len(text) {
		copy(text[at+5:at+13], uuid.NewString()[:8])
		_ = os.WriteFile(descriptor, text, 0o644)
	}
}

func (h *History) size() int64 {
	info, err := os.Stat(h.layers[0].path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// backing is how a configuration names a disk up to one of its files.
func (h *History) backing(layer int, changeID string) *types.VirtualDiskFlatVer2BackingInfo {
	backing := *h.layers[layer].backing
	backing.ChangeId = changeID
	if layer > 0 {
		backing.Parent = h.backing(layer-1, h.layers[layer-1].backing.ChangeId)
	}
	return &backing
}

// show makes the configurations of the machine and of its snapshots name the disk as it is.
func (h *History) show(vm *simulator.VirtualMachine, key int32) {
	become := func(config *types.VirtualMachineConfigInfo, backing *types.VirtualDiskFlatVer2BackingInfo) {
		for _, device := range config.Hardware.Device {
			// Some are only disguised as something else.
			if disk, ok := device.(*types.VirtualDisk); ok && disk.Key == key {
				if _, ok = disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok {
					disk.Backing = backing
				}
			}
		}
	}
	simulator.Map.WithLock(vm, func() { become(vm.Config, h.backing(len(h.layers)-1, h.changeID())) })
	for reference, frozen := range h.frozen {
		if snapshot, ok := simulator.Map.Get(reference).(*simulator.VirtualMachineSnapshot); ok {
			simulator.Map.WithLock(snapshot, func() { become(&snapshot.Config, h.backing(frozen.layer, frozen.changeID)) })
		}
	}
}

// unshare gives a snapshot disks of its own: the simulator's are those of the machine.
func unshare(reference types.ManagedObjectReference) {
	snapshot, ok := simulator.Map.Get(reference).(*simulator.VirtualMachineSnapshot)
	if !ok {
		return
	}
	simulator.Map.WithLock(snapshot, func() {
		devices := make([]types.BaseVirtualDevice, len(snapshot.Config.Hardware.Device))
		copy(devices, snapshot.Config.Hardware.Device)
		for number, device := range devices {
			if disk, ok := device.(*types.VirtualDisk); ok {
				own := *disk
				devices[number] = &own
			}
		}
		snapshot.Config.Hardware.Device = devices
	})
}

// write is what a guest does to one of its disks, counted from 0.
func (l *Life) write(vm string, number int, offset int64, data []byte) error {
	l.lock.Lock()
	defer l.lock.Unlock()
	machine, history, err := l.named(vm, number)
	if err != nil {
		return err
	}
	if machine.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn {
		return fmt.Errorf("%s does not run: no guest writes", vm)
	}
	end := offset + int64(len(data))
	if offset < 0 || end > history.size() {
		return io.ErrShortWrite
	}
	top := history.layers[len(history.layers)-1]
	if !top.is_delta && !history.touched {
		history.touch()
		history.touched = true
	}
	if history.tracked {
		history.writes = append(history.writes, Written{history.epoch, span{offset, end}})
	}
	return top.write(data, offset)
}

// reset loses what is known of the changes of a machine's disks, as a host does that fails.
func (l *Life) reset(vm string) error {
	l.lock.Lock()
	defer l.lock.Unlock()
	machine, _, err := l.named(vm, 0)
	if err != nil {
		return err
	}
	for key, history := range l.lived(machine).disks {
		history.epoch++
		history.forget()
		history.show(machine, key)
	}
	return nil
}

func (l *Life) named(name string, number int) (*simulator.VirtualMachine, *History, error) {
	for _, entity := range simulator.Map.All("VirtualMachine") {
		vm := entity.(*simulator.VirtualMachine)
		if vm.Name != name {
			continue
		}
		l.settle(vm)
		for _, device := range vm.Config.Hardware.Device {
			disk, ok := device.(*types.VirtualDisk)
			if ok && number == 0 {
				if history := l.lived(vm).disks[disk.Key]; history != nil {
					return vm, history, nil
				}
				break
			}
			if ok {
				number--
			}
		}
	}
	return nil, nil, fmt.Errorf("no machine %s with such a disk", name)
}

// changed tells which areas of a disk are in use ("*"), or have changed since a change id, up to a snapshot or now.
func (l *Life) changed(vm *simulator.VirtualMachine, asked *types.QueryChangedDiskAreas) (spans, int64, error) {
	l.lock.Lock()
	defer l.lock.Unlock()
	l.settle(vm)
	history := l.lived(vm).disks[asked.DeviceKey]
	if history == nil {
		return nil, 0, errDevice
	}
	size := history.size()
	as := Frozen{layer: len(history.layers) - 1, epoch: history.epoch}
	if asked.Snapshot != nil {
		frozen, known := history.frozen[*asked.Snapshot]
		if !known || frozen.changeID == "" {
			return nil, 0, errRefused
		}
		as = frozen
	} else if vm.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff {
		// The machine has its disk, and nobody else may look.
		return nil, 0, errRefused
	}
	if !history.tracked || l.answers == "refused" {
		return nil, 0, errRefused
	}
	if asked.ChangeId == "*" {
		if l.answers == "whole" {
			return spans{{0, size}}, size, nil
		}
		view, err := history.view(as.layer)
		if err != nil {
			return nil, 0, errRefused
		}
		defer view.Close()
		return view.in_use(), size, nil
	}
	id, number, has_number := strings.Cut(asked.ChangeId, "/")
	since, err := strconv.ParseInt(number, 10, 64)
	if !has_number || err != nil {
		return nil, 0, errChangeID
	}
	if id != history.id || since < history.since || since > history.epoch {
		return nil, 0, errRefused
	}
	var areas spans
	for _, written := range history.writes {
		if written.epoch > since && written.epoch <= as.epoch {
			start := written.start / trackedBytes * trackedBytes
			end := (written.end + trackedBytes - 1) / trackedBytes * trackedBytes
			if end > size {
				end = size
			}
			areas = append(areas, span{start, end})
		}
	}
	return areas.merged(), size, nil
}

// open is a disk of a machine as it is now, or as of a snapshot.
func (l *Life) open(reference types.ManagedObjectReference, key int32, snapshot *types.ManagedObjectReference) (*View, error) {
	l.lock.Lock()
	defer l.lock.Unlock()
	vm, ok := simulator.Map.Get(reference).(*simulator.VirtualMachine)
	if !ok {
		return nil, os.ErrNotExist
	}
	l.settle(vm)
	history := l.lived(vm).disks[key]
	if history == nil {
		return nil, os.ErrNotExist
	}
	layer := len(history.layers) - 1
	if snapshot != nil {
		frozen, known := history.frozen[*snapshot]
		if !known {
			return nil, os.ErrNotExist
		}
		layer = frozen.layer
	}
	return history.view(layer)
}
