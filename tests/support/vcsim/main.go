// Command vcsim is the vCenter, or the ESXi host, that tests talk to: govmomi's simulator with an inventory as a test describes it, and
// in front of it what real hosts have and the simulator lacks (front.go, areas.go), and what goes wrong on real networks (faults.go).
//
// It reads a description as one line of JSON from its standard input, answers with one line of JSON once it listens, and then takes
// orders, one a line, each answered with a line (orders.go). It ends when its standard input ends; all its files lie in TMPDIR.
package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/vmware/govmomi/simulator"
)

// Description is what a test wants.
type Description struct {
	ESX         bool      `json:"esx"`
	User        string    `json:"user"`
	Password    string    `json:"password"`
	Datacenters int       `json:"datacenters"`
	Datastores  []string  `json:"datastores"`
	Fillers     int       `json:"fillers"`
	Machines    []Machine `json:"machines"`
	Certificate string    `json:"certificate"`
	Throttle    int64     `json:"throttle"`
	NoETag      bool      `json:"no_etag"`
	// Of export leases: see Leases.
	LeaseTimeout   int32 `json:"lease_timeout"`
	NamedLeases    bool  `json:"named_leases"`
	WrongChecksums bool  `json:"wrong_checksums"`
	PackedBefore   bool  `json:"packed_before"`
	// Of the hosts' certificates.
	WrongThumbprints bool `json:"wrong_thumbprints"`
}

// Ready is what a test has to know.
type Ready struct {
	Address string `json:"address"`
	CA      string `json:"ca"`
	Log     string `json:"log"`
	// By datacenter and name.
	Datastores map[string]map[string]string `json:"datastores"`
}

func main() {
	log.SetOutput(os.Stderr)
	if err := serve(); err != nil {
		log.Fatal(err)
	}
}

func serve() error {
	orders := bufio.NewReaderSize(os.Stdin, 1<<20)
	line, err := orders.ReadBytes('\n')
	if err != nil {
		return err
	}
	var wanted Description
	if err = json.Unmarshal(line, &wanted); err != nil {
		return err
	}

	model := simulator.VPX()
	if wanted.ESX {
		model = simulator.ESX()
	} else {
		model.Datacenter, model.ClusterHost = wanted.Datacenters, 1
	}
	model.Machine, model.Datastore = 0, len(wanted.Datastores)
	if err = model.Create(); err != nil {
		return err
	}
	// The simulator wants a listener of its own; it is closed at once, and its handler is asked directly.
	model.Service.Listen = &url.URL{Host: "127.0.0.1:0", User: url.UserPassword(wanted.User, wanted.Password)}
	model.Service.NewServer().Server.Listener.Close()

	addAutostart()
	estate, err := populate(model.Service, &wanted)
	if err != nil {
		return err
	}
	certificates, err := newAuthority(wanted.Certificate)
	if err != nil {
		return err
	}
	ready := Ready{
		CA:         filepath.Join(os.TempDir(), "ca.pem"),
		Log:        filepath.Join(os.TempDir(), "requests.jsonl"),
		Datastores: estate.directories(),
	}
	if err = os.WriteFile(ready.CA, certificates.caPEM, 0o644); err != nil {
		return err
	}
	journal, err := os.Create(ready.Log)
	if err != nil {
		return err
	}
	front := &Front{
		inner:     model.Service.ServeMux,
		estate:    estate,
		sessions:  map[string]bool{},
		overslept: map[string]time.Duration{},
		journal:   journal,
		throttle:  wanted.Throttle,
		noETag:    wanted.NoETag,
		leases: Leases{
			known: map[string]*Lease{}, timeout: wanted.LeaseTimeout, named: wanted.NamedLeases, wrong: wanted.WrongChecksums,
			mistaken: wanted.WrongThumbprints, before: wanted.PackedBefore,
		},

		certificates: certificates,
	}
	if front.leases.timeout == 0 {
		front.leases.timeout = 300
	}

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ready.Address = listener.Addr().String()
	server := &http.Server{Handler: front, ErrorLog: log.New(io.Discard, "", 0)}
	go func() {
		// HTTP/1.1 alone, as hosts speak it on this port.
		secure := tls.NewListener(listener, &tls.Config{
			GetCertificate: certificates.get,
			NextProtos:     []string{"http/1.1"},
		})
		log.Fatal(server.Serve(secure))
	}()
	said, err := json.Marshal(ready)
	if err != nil {
		return err
	}
	fmt.Println(string(said))
	obey(orders, front, certificates)
	return nil
}
