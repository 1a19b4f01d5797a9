package main

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// Hosts answer in pieces; so does this, to be asked again.
const mostAreas = 2000

// changedAreas answers which areas of a disk are in use, or have changed.
func (f *Front) changedAreas(w *answer, asked *types.QueryChangedDiskAreas) {
	vm, known := simulator.Map.Get(asked.This).(*simulator.VirtualMachine)
	if !known {
		fault(w, "ManagedObjectNotFound", fmt.Sprintf(`<obj type="%s">%s</obj>`, asked.This.Type, asked.This.Value))
		return
	}
	areas, size, err := f.estate.life.changed(vm, asked)
	switch {
	case errors.Is(err, errDevice), errors.Is(err, errChangeID):
		fault(w, "InvalidArgument", fmt.Sprintf("<invalidProperty>%s</invalidProperty>", err))
		return
	case err != nil:
		fault(w, "FileFault", "<file>/vmfs/volumes/change tracking</file>")
		return
	}
	var said strings.Builder
	end, number := size, 0
	for _, area := range areas {
		start := max(area.start, asked.StartOffset)
		if start >= area.end {
			continue
		}
		if number == mostAreas {
			end = start
			break
		}
		fmt.Fprintf(&said, "<changedArea><start>%d</start><length>%d</length></changedArea>", start, area.end-start)
		number++
	}
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	fmt.Fprintf(w, envelope, fmt.Sprintf(
		`<QueryChangedDiskAreasResponse xmlns="urn:vim25"><returnval><startOffset>%d</startOffset><length>%d</length>%s</returnval></QueryChangedDiskAreasResponse>`,
		asked.StartOffset, end-asked.StartOffset, said.String()))
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
