package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// Guest is how the guest of a machine behaves when it is told to shut down. The simulator's own goes off at once.
type Guest struct {
	// VMware's tools do not run in it.
	NoTools bool
	// So long it takes.
	Takes time.Duration
	// It does not obey.
	Deaf bool
	// It was told to, and goes off.
	goes bool
}

var (
	guests     = map[types.ManagedObjectReference]*Guest{}
	guestsLock sync.Mutex
)

// behaves gives a machine its guest.
func (e *Estate) behaves(vm *simulator.VirtualMachine, machine *Machine) {
	guestsLock.Lock()
	guests[vm.Self] = &Guest{
		NoTools: machine.NoTools, Takes: time.Duration(machine.ShutdownMS) * time.Millisecond, Deaf: machine.Deaf,
	}
	guestsLock.Unlock()
	setTools(vm.Self, types.VirtualMachineToolsRunningStatusGuestToolsNotRunning)
	if machine.On {
		toolsBegin(vm.Self)
	}
	if machine.Autostart {
		manager := autostartOf(vm)
		manager.Config.PowerInfo = append(manager.Config.PowerInfo, types.AutoStartPowerInfo{
			Key: vm.Self, StartOrder: 3, StartDelay: 120, WaitForHeartbeat: "systemDefault", StartAction: "powerOn",
			StopDelay: 60, StopAction: "guestShutdown",
		})
	}
}

func setTools(reference types.ManagedObjectReference, status types.VirtualMachineToolsRunningStatus) {
	vm, ok := simulator.Map.Get(reference).(*simulator.VirtualMachine)
	if !ok {
		return
	}
	simulator.Map.WithLock(vm, func() { vm.Guest.ToolsRunningStatus = string(status) })
}

// toolsBegin lets the tools of a machine that was started run, if it has such.
func toolsBegin(reference types.ManagedObjectReference) {
	guestsLock.Lock()
	guest := guests[reference]
	guestsLock.Unlock()
	if guest != nil && !guest.NoTools {
		setTools(reference, types.VirtualMachineToolsRunningStatusGuestToolsRunning)
	}
}

// shutDown asks a guest to shut down. It goes off when it has taken its time; its tools end at once.
func (f *Front) shutDown(w *answer, asked *types.ShutdownGuest) {
	vm, known := simulator.Map.Get(asked.This).(*simulator.VirtualMachine)
	guestsLock.Lock()
	defer guestsLock.Unlock()
	guest := guests[asked.This]
	switch {
	case !known || guest == nil:
		fault(w, "ManagedObjectNotFound", fmt.Sprintf(`<obj type="%s">%s</obj>`, asked.This.Type, asked.This.Value))
		return
	case vm.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn:
		fault(w, "InvalidPowerState", fmt.Sprintf(
			"<requestedState>poweredOn</requestedState><existingState>%s</existingState>", vm.Runtime.PowerState))
		return
	case guest.NoTools || guest.goes:
		fault(w, "ToolsUnavailable", "")
		return
	}
	if !guest.Deaf {
		guest.goes = true
		setTools(asked.This, types.VirtualMachineToolsRunningStatusGuestToolsNotRunning)
		time.AfterFunc(guest.Takes, func() {
			guestsLock.Lock()
			guest.goes = false
			guestsLock.Unlock()
			_ = f.estate.power(asked.This, false)
		})
	}
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	fmt.Fprintf(w, envelope, `<ShutdownGuestResponse xmlns="urn:vim25"></ShutdownGuestResponse>`)
}

// power switches a machine, as somebody else does it.
func (e *Estate) power(reference types.ManagedObjectReference, on bool) error {
	vm := object.NewVirtualMachine(e.client, reference)
	var err error
	e.life.during(reference, func() { err = switchPower(vm, on) })
	if err == nil && on {
		toolsBegin(reference)
	}
	return err
}

func switchPower(vm *object.VirtualMachine, on bool) error {
	task, err := vm.PowerOff(background)
	if on {
		task, err = vm.PowerOn(background)
	}
	if err != nil {
		return err
	}
	return task.Wait(background)
}

// PowerOrder changes how a guest behaves, or switches its machine.
type PowerOrder struct {
	VM         string `json:"vm"`
	NoTools    *bool  `json:"no_tools"`
	Deaf       *bool  `json:"deaf"`
	ShutdownMS *int64 `json:"shutdown_ms"`
	On         *bool  `json:"on"`
}

func named(name string) (*simulator.VirtualMachine, error) {
	for _, entity := range simulator.Map.All("VirtualMachine") {
		if vm := entity.(*simulator.VirtualMachine); vm.Name == name {
			return vm, nil
		}
	}
	return nil, fmt.Errorf("no machine %s", name)
}

func (e *Estate) switched(order *PowerOrder) error {
	vm, err := named(order.VM)
	if err != nil {
		return err
	}
	guestsLock.Lock()
	guest := guests[vm.Self]
	if order.NoTools != nil {
		guest.NoTools = *order.NoTools
	}
	if order.Deaf != nil {
		guest.Deaf = *order.Deaf
	}
	if order.ShutdownMS != nil {
		guest.Takes = time.Duration(*order.ShutdownMS) * time.Millisecond
	}
	guestsLock.Unlock()
	if order.NoTools != nil && *order.NoTools {
		setTools(vm.Self, types.VirtualMachineToolsRunningStatusGuestToolsNotRunning)
	}
	if order.On != nil {
		return e.power(vm.Self, *order.On)
	}
	return nil
}

// lost takes a machine out of the inventory; its files stay.
func (e *Estate) lost(name string) error {
	vm, err := named(name)
	if err != nil {
		return err
	}
	return object.NewVirtualMachine(e.client, vm.Self).Unregister(background)
}

// looked tells how a machine is now, without any call that a test could count.
func looked(name string) (string, error) {
	vm, err := named(name)
	if err != nil {
		return "", err
	}
	cards := []map[string]bool{}
	for _, device := range vm.Config.Hardware.Device {
		if card, ok := device.(types.BaseVirtualEthernetCard); ok {
			plug := card.GetVirtualEthernetCard().Connectable
			cards = append(cards, map[string]bool{"connected": plug != nil && plug.Connected, "starts": plug != nil && plug.StartConnected})
		}
	}
	action := ""
	for _, info := range autostartOf(vm).Config.PowerInfo {
		if info.Key == vm.Self {
			action = info.StartAction
		}
	}
	said, err := json.Marshal(map[string]interface{}{
		"power": vm.Runtime.PowerState, "notes": vm.Config.Annotation, "cards": cards, "autostart": action,
	})
	return string(said), err
}

// autostart is a host's list of machines that it starts by itself, which the simulator lacks.
type autostart struct {
	mo.HostAutoStartManager
}

// ReconfigureAutostart takes in what is said of each machine, as hosts do.
func (a *autostart) ReconfigureAutostart(req *types.ReconfigureAutostart) soap.HasFault {
	for _, wanted := range req.Spec.PowerInfo {
		known := false
		for number := range a.Config.PowerInfo {
			if a.Config.PowerInfo[number].Key == wanted.Key {
				a.Config.PowerInfo[number], known = wanted, true
			}
		}
		if !known {
			a.Config.PowerInfo = append(a.Config.PowerInfo, wanted)
		}
	}
	return &methods.ReconfigureAutostartBody{Res: &types.ReconfigureAutostartResponse{}}
}

// addAutostart gives each host its list.
func addAutostart() {
	for _, entity := range simulator.Map.All("HostSystem") {
		host := entity.(*simulator.HostSystem)
		made := &autostart{}
		made.Self = types.ManagedObjectReference{Type: "HostAutoStartManager", Value: "autostart-" + host.Self.Value}
		simulator.Map.Put(made)
		reference := made.Self
		host.ConfigManager.AutoStartManager = &reference
	}
}

func autostartOf(vm *simulator.VirtualMachine) *autostart {
	host := simulator.Map.Get(*vm.Runtime.Host).(*simulator.HostSystem)
	return simulator.Map.Get(*host.ConfigManager.AutoStartManager).(*autostart)
}
