package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"
)

// Machine is one virtual machine that a test wants to be there.
type Machine struct {
	Name               string   `json:"name"`
	Datacenter         string   `json:"datacenter"`
	Folder             string   `json:"folder"`
	Datastore          string   `json:"datastore"`
	Directory          string   `json:"directory"`
	Firmware           string   `json:"firmware"`
	SecureBoot         bool     `json:"secure_boot"`
	GuestID            string   `json:"guest_id"`
	MemoryMiB          int64    `json:"memory_mib"`
	CPUs               int32    `json:"cpus"`
	UUID               string   `json:"uuid"`
	Notes              string   `json:"notes"`
	On                 bool     `json:"on"`
	ChangeTracking     bool     `json:"change_tracking"`
	NeedsConsolidation bool     `json:"needs_consolidation"`
	Snapshots          []string `json:"snapshots"`
	Tags               []string `json:"tags"`
	Disks              []Disk   `json:"disks"`
	NICs               []NIC    `json:"nics"`
	// Of its guest: see power.go.
	NoTools    bool  `json:"no_tools"`
	ShutdownMS int64 `json:"shutdown_ms"`
	Deaf       bool  `json:"deaf"`
	Autostart  bool  `json:"autostart"`
}

// Disk is one of its disks.
type Disk struct {
	File       string `json:"file"`
	Datastore  string `json:"datastore"`
	Capacity   int64  `json:"capacity"`
	Content    string `json:"content"`
	Descriptor string `json:"descriptor"`
	Controller string `json:"controller"`
	Backing    string `json:"backing"`
	Mode       string `json:"mode"`
	Thin       bool   `json:"thin"`
	UUID       string `json:"uuid"`
	Parent     string `json:"parent"`
}

// NIC is one of its network cards.
type NIC struct {
	Kind    string `json:"kind"`
	Network string `json:"network"`
	MAC     string `json:"mac"`
}

// Estate is the inventory with the directories behind its datastores.
type Estate struct {
	client *vim25.Client
	finder *find.Finder
	tags   *Tags
	life   *Life
}

var background = context.Background()

// populate makes the datastores have their names, and the machines exist.
func populate(service *simulator.Service, wanted *Description) (*Estate, error) {
	client, err := vim25.NewClient(background, service)
	if err != nil {
		return nil, err
	}
	estate := &Estate{client: client, finder: find.NewFinder(client, false), tags: newTags(service)}
	estate.life = newLife(estate)
	for _, entity := range simulator.Map.All("Datastore") {
		store := entity.(*simulator.Datastore)
		for number, name := range wanted.Datastores {
			if store.Name == fmt.Sprintf("LocalDS_%d", number) {
				store.Name, store.Summary.Name, store.Info.GetDatastoreInfo().Name = name, name, name
				break
			}
		}
	}
	// Not what is free on the machine that the tests run on.
	if err = (&Room{Percent: 50}).tell(); err != nil {
		return nil, err
	}
	for number := 0; number < wanted.Fillers; number++ {
		filler := Machine{
			Name:  fmt.Sprintf("filler-%05d", number),
			Disks: []Disk{{Capacity: 1 << 20}},
			NICs:  []NIC{{}},
		}
		if err = estate.add(wanted, &filler); err != nil {
			return nil, err
		}
	}
	for number := range wanted.Machines {
		if err = estate.add(wanted, &wanted.Machines[number]); err != nil {
			return nil, fmt.Errorf("%s: %w", wanted.Machines[number].Name, err)
		}
	}
	return estate, nil
}

// add makes one machine with its files.
func (e *Estate) add(wanted *Description, machine *Machine) error {
	datacenter, err := e.finder.DatacenterOrDefault(background, first(machine.Datacenter, defaultDatacenter(wanted)))
	if err != nil {
		return err
	}
	e.finder.SetDatacenter(datacenter)
	folders, err := datacenter.Folders(background)
	if err != nil {
		return err
	}
	folder, err := e.folder(folders.VmFolder, machine.Folder)
	if err != nil {
		return err
	}
	pools, err := e.finder.ResourcePoolList(background, "*/Resources")
	if err != nil {
		return err
	}
	store := first(machine.Datastore, wanted.Datastores[0])
	directory := first(machine.Directory, machine.Name)
	spec := types.VirtualMachineConfigSpec{
		Name:                  machine.Name,
		GuestId:               first(machine.GuestID, "otherGuest"),
		NumCPUs:               machine.CPUs,
		MemoryMB:              machine.MemoryMiB,
		Firmware:              machine.Firmware,
		Uuid:                  machine.UUID,
		Annotation:            machine.Notes,
		ChangeTrackingEnabled: types.NewBool(machine.ChangeTracking),
		BootOptions:           &types.VirtualMachineBootOptions{EfiSecureBootEnabled: types.NewBool(machine.SecureBoot)},
		Files: &types.VirtualMachineFileInfo{
			VmPathName: fmt.Sprintf("[%s] %s/%s.vmx", store, directory, path.Base(directory)),
		},
	}
	if err = os.MkdirAll(filepath.Join(e.directory(datacenter.Name(), store), directory), 0o755); err != nil {
		return err
	}
	devices, err := e.devices(datacenter, machine, store, directory)
	if err != nil {
		return err
	}
	if spec.DeviceChange, err = devices.ConfigSpec(types.VirtualDeviceConfigSpecOperationAdd); err != nil {
		return err
	}
	for number := range spec.DeviceChange {
		change := spec.DeviceChange[number].GetVirtualDeviceConfigSpec()
		if disk, ok := change.Device.(*types.VirtualDisk); ok {
			change.FileOperation = types.VirtualDeviceConfigSpecFileOperationCreate
			disk.CapacityInBytes = disk.CapacityInKB * 1024
		}
	}
	task, err := folder.CreateVM(background, spec, pools[0], nil)
	if err != nil {
		return err
	}
	info, err := task.WaitForResult(background, nil)
	if err != nil {
		return err
	}
	reference := info.Result.(types.ManagedObjectReference)
	if err = e.write(datacenter.Name(), machine, store, directory); err != nil {
		return err
	}
	vm := object.NewVirtualMachine(e.client, reference)
	for _, name := range machine.Snapshots {
		e.life.during(reference, func() {
			if task, err = vm.CreateSnapshot(background, name, "", false, false); err == nil {
				err = task.Wait(background)
			}
		})
		if err != nil {
			return err
		}
	}
	known := simulator.Map.Get(reference).(*simulator.VirtualMachine)
	if machine.NeedsConsolidation {
		known.Runtime.ConsolidationNeeded = types.NewBool(true)
		known.Summary.Runtime.ConsolidationNeeded = types.NewBool(true)
	}
	if machine.On {
		if task, err = vm.PowerOn(background); err != nil {
			return err
		}
		if err = task.Wait(background); err != nil {
			return err
		}
	}
	for _, tag := range machine.Tags {
		if err = e.tags.attach(reference, tag); err != nil {
			return err
		}
	}
	e.life.during(reference, func() { disguise(known, machine) })
	e.behaves(known, machine)
	return nil
}

// folder finds a folder by its path below the one of all machines, and makes what is not there.
func (e *Estate) folder(at *object.Folder, names string) (*object.Folder, error) {
	for _, name := range strings.Split(names, "/") {
		if name == "" {
			continue
		}
		children, err := at.Children(background)
		if err != nil {
			return nil, err
		}
		var next *object.Folder
		for _, child := range children {
			if known, ok := child.(*object.Folder); ok && simulator.Map.Get(known.Reference()).(*simulator.Folder).Name == name {
				next = known
			}
		}
		if next == nil {
			if next, err = at.CreateFolder(background, name); err != nil {
				return nil, err
			}
		}
		at = next
	}
	return at, nil
}

// devices are the controllers, disks and network cards of a machine.
func (e *Estate) devices(datacenter *object.Datacenter, machine *Machine, store, directory string) (object.VirtualDeviceList, error) {
	var devices object.VirtualDeviceList
	controllers := map[string]types.BaseVirtualController{}
	units := map[string]int32{}
	for number := range machine.Disks {
		disk := &machine.Disks[number]
		kind := first(disk.Controller, "pvscsi")
		controller, known := controllers[kind]
		if !known {
			var made types.BaseVirtualDevice
			var err error
			switch kind {
			case "ide":
				made, err = devices.CreateIDEController()
			case "nvme":
				made, err = devices.CreateNVMEController()
			case "sata":
				made = &types.VirtualAHCIController{VirtualSATAController: types.VirtualSATAController{
					VirtualController: types.VirtualController{VirtualDevice: types.VirtualDevice{Key: -300}},
				}}
			default:
				made, err = devices.CreateSCSIController(kind)
			}
			if err != nil {
				return nil, err
			}
			controller = made.(types.BaseVirtualController)
			controllers[kind] = controller
			devices = append(devices, made)
		}
		disk.File = first(disk.File, nameOf(path.Base(directory), number))
		where := first(disk.Datastore, store)
		unit := units[kind]
		units[kind]++
		if unit == 6 {
			units[kind]++
		}
		made := &types.VirtualDisk{
			VirtualDevice: types.VirtualDevice{
				Key:           -1000 - int32(number),
				ControllerKey: controller.GetVirtualController().Key,
				UnitNumber:    &unit,
				DeviceInfo:    &types.Description{Label: fmt.Sprintf("Hard disk %d", number+1)},
				Backing:       disk.backing(fmt.Sprintf("[%s] %s/%s", where, directory, disk.File)),
			},
			CapacityInKB: disk.Capacity / 1024,
		}
		devices = append(devices, made)
		if where != store {
			if err := os.MkdirAll(filepath.Join(e.directory(datacenter.Name(), where), directory), 0o755); err != nil {
				return nil, err
			}
		}
	}
	for _, nic := range machine.NICs {
		network, err := e.finder.NetworkOrDefault(background, first(nic.Network, "VM Network"))
		if err != nil {
			return nil, err
		}
		backing, err := network.EthernetCardBackingInfo(background)
		if err != nil {
			return nil, err
		}
		card, err := devices.CreateEthernetCard(first(nic.Kind, "vmxnet3"), backing)
		if err != nil {
			return nil, err
		}
		if nic.MAC != "" {
			card.(types.BaseVirtualEthernetCard).GetVirtualEthernetCard().MacAddress = nic.MAC
		}
		devices = append(devices, card)
	}
	return devices, nil
}

// backing is how a machine's configuration names the file of a disk.
func (d *Disk) backing(file string) *types.VirtualDiskFlatVer2BackingInfo {
	mode := first(d.Mode, "persistent")
	backing := &types.VirtualDiskFlatVer2BackingInfo{
		VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: file},
		DiskMode:                     mode,
		Uuid:                         d.UUID,
		ThinProvisioned:              types.NewBool(d.Thin),
	}
	if d.Parent != "" {
		backing.Parent = &types.VirtualDiskFlatVer2BackingInfo{
			VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: d.Parent}, DiskMode: mode,
		}
	}
	return backing
}

// disguise makes disks be of a kind that the simulator cannot make, and does not survive to look at while it makes others.
func disguise(vm *simulator.VirtualMachine, machine *Machine) {
	number := 0
	for _, device := range vm.Config.Hardware.Device {
		disk, ok := device.(*types.VirtualDisk)
		if !ok {
			continue
		}
		flat := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
		switch machine.Disks[number].Backing {
		case "rdm":
			disk.Backing = &types.VirtualDiskRawDiskMappingVer1BackingInfo{
				VirtualDeviceFileBackingInfo: flat.VirtualDeviceFileBackingInfo, DiskMode: flat.DiskMode, Uuid: flat.Uuid,
				LunUuid: "0200000000600508b1001c", DeviceName: "vml.0200000000600508b1001c", CompatibilityMode: "physicalMode",
			}
		case "sesparse":
			disk.Backing = &types.VirtualDiskSeSparseBackingInfo{
				VirtualDeviceFileBackingInfo: flat.VirtualDeviceFileBackingInfo, DiskMode: flat.DiskMode, Uuid: flat.Uuid,
			}
		}
		number++
	}
}

// write fills the files that the simulator has made empty: descriptors as hosts write them, and contents.
func (e *Estate) write(datacenter string, machine *Machine, store, directory string) error {
	for _, disk := range machine.Disks {
		at := filepath.Join(e.directory(datacenter, first(disk.Datastore, store)), directory, disk.File)
		flat := strings.TrimSuffix(at, ".vmdk") + "-flat.vmdk"
		descriptor := disk.Descriptor
		if descriptor == "" {
			descriptor = fmt.Sprintf(descriptorText, (disk.Capacity+511)/512, filepath.Base(flat), 1+disk.Capacity/(255*63*512))
		}
		if err := os.WriteFile(at, []byte(descriptor), 0o644); err != nil {
			return err
		}
		if disk.Content != "" {
			if said, err := exec.Command("cp", "--sparse=always", "--", disk.Content, flat).CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w", said, err)
			}
		}
		if err := os.Truncate(flat, disk.Capacity); err != nil {
			return err
		}
	}
	return nil
}

// As ESXi 7 writes it.
const descriptorText = `# Disk DescriptorFile
version=1
encoding="UTF-8"
CID=fffffffe
parentCID=ffffffff
createType="vmfs"

# Extent description
RW %d VMFS "%s"

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.geometry.cylinders = "%d"
ddb.geometry.heads = "255"
ddb.geometry.sectors = "63"
ddb.longContentID = "1c2fb6b1d9b3c1e0d1f1c1c6fffffffe"
ddb.toolsVersion = "2147483647"
ddb.virtualHWVersion = "14"
`

// directory is where the files of a datastore really lie; empty when there is none of that name.
func (e *Estate) directory(datacenter, store string) string {
	return e.directories()[datacenter][store]
}

// directories are those of all datastores, by datacenter and name.
func (e *Estate) directories() map[string]map[string]string {
	known := map[string]map[string]string{}
	for _, entity := range simulator.Map.All("Datacenter") {
		datacenter := entity.(*simulator.Datacenter)
		stores := map[string]string{}
		for _, reference := range datacenter.Datastore {
			// A host's datacenter names one that is not there.
			if store, ok := simulator.Map.Get(reference).(*simulator.Datastore); ok {
				stores[store.Name] = store.Info.GetDatastoreInfo().Url
			}
		}
		known[datacenter.Name] = stores
	}
	return known
}

func defaultDatacenter(wanted *Description) string {
	if wanted.ESX {
		return "ha-datacenter"
	}
	return "DC0"
}

func nameOf(machine string, number int) string {
	if number == 0 {
		return machine + ".vmdk"
	}
	return fmt.Sprintf("%s_%d.vmdk", machine, number)
}

func first(wanted, otherwise string) string {
	if wanted != "" {
		return wanted
	}
	return otherwise
}
