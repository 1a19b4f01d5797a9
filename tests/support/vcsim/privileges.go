package main

import (
	"fmt"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// needed is what an account has to have for a call. The simulator itself refuses nobody.
var needed = map[string]string{
	"CreateSnapshot_Task":            "VirtualMachine.State.CreateSnapshot",
	"RemoveSnapshot_Task":            "VirtualMachine.State.RemoveSnapshot",
	"ReconfigVM_Task":                "VirtualMachine.Config.ChangeTracking",
	"ExportVm":                       "VApp.Export",
	"ExportSnapshot":                 "VApp.Export",
	"SearchDatastore_Task":           "Datastore.Browse",
	"SearchDatastoreSubFolders_Task": "Datastore.Browse",
	"PowerOffVM_Task":                "VirtualMachine.Interact.PowerOff",
	"ShutdownGuest":                  "VirtualMachine.Interact.PowerOff",
	"PowerOnVM_Task":                 "VirtualMachine.Interact.PowerOn",
}

// lack takes these privileges from the account, and gives it all others.
func (f *Front) lack(privileges []string) {
	f.lock.Lock()
	defer f.lock.Unlock()
	f.lacking = map[string]bool{}
	for _, privilege := range privileges {
		f.lacking[privilege] = true
	}
}

func (f *Front) lacks(privilege string) bool {
	f.lock.Lock()
	defer f.lock.Unlock()
	return f.lacking[privilege]
}

// count tells how many sessions there are.
func (f *Front) count() int {
	f.lock.Lock()
	defer f.lock.Unlock()
	return len(f.sessions)
}

// refuses a call for which the account lacks what it needs, and says so when it is asked; says whether it answered.
func (f *Front) refuses(w *answer, method *simulator.Method) bool {
	if asked, ok := method.Body.(*types.HasPrivilegeOnEntities); ok {
		f.tellPrivileges(w, asked)
		return true
	}
	privilege, known := needed[method.Name]
	if !known || !f.lacks(privilege) {
		return false
	}
	fault(w, "NoPermission", fmt.Sprintf(
		`<object type="%s">%s</object><privilegeId>%s</privilegeId>`, method.This.Type, method.This.Value, privilege))
	return true
}

func (f *Front) tellPrivileges(w *answer, asked *types.HasPrivilegeOnEntities) {
	var all strings.Builder
	for _, entity := range asked.Entity {
		fmt.Fprintf(&all, `<returnval><entity type="%s">%s</entity>`, entity.Type, entity.Value)
		for _, privilege := range asked.PrivId {
			fmt.Fprintf(&all, "<privAvailability><privId>%s</privId><isGranted>%t</isGranted></privAvailability>", privilege, !f.lacks(privilege))
		}
		all.WriteString("</returnval>")
	}
	respond(w, "HasPrivilegeOnEntities", all.String())
}
