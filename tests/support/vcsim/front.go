package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	sessionCookie = "vmware_soap_session"
	folderPrefix  = "/folder/"
	// No call of a test is larger.
	mostOfACall = 8 << 20
)

// Calls after which the disks of a machine may be others.
var changesLife = map[string]bool{
	"CreateSnapshot_Task": true, "RemoveSnapshot_Task": true, "RemoveAllSnapshots_Task": true, "ReconfigVM_Task": true,
	"PowerOnVM_Task": true, "PowerOffVM_Task": true, "ShutdownGuest": true,
}

// Front stands before the simulator: it knows which sessions are alive, serves the files of datastores as hosts do, writes down every
// request, and does what faults it was ordered to.
type Front struct {
	inner    http.Handler
	estate   *Estate
	throttle int64
	noETag   bool
	leases   Leases

	certificates *Authority

	lock     sync.Mutex
	sessions map[string]bool
	// By the other end of a connection.
	overslept map[string]time.Duration
	faults    []*Fault
	lacking   map[string]bool
	journal   *os.File
}

// Entry is a request as it is written down.
type Entry struct {
	At     string `json:"at"`
	Method string `json:"method"`
	Path   string `json:"path"`
	Call   string `json:"call,omitempty"`
	Range  string `json:"range,omitempty"`
	Status int    `json:"status"`
	Sent   int64  `json:"sent"`
	Client string `json:"client"`
}

// answer counts and slows what is sent, and sees sessions begin.
type answer struct {
	http.ResponseWriter
	status int
	sent   int64
	pace   int64
	began  time.Time
	// How much longer than it should it has slept last.
	over time.Duration
}

func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(data []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	written, err := a.ResponseWriter.Write(data)
	a.sent += int64(written)
	if a.pace > 0 {
		due := time.Duration(float64(a.sent) / float64(a.pace) * float64(time.Second))
		if early := due - time.Since(a.began); early > 0 {
			time.Sleep(early)
			a.over = time.Since(a.began) - due
		}
	}
	return written, err
}

func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	reply := &answer{ResponseWriter: w, began: time.Now()}
	entry := Entry{
		At: reply.began.UTC().Format(time.RFC3339Nano), Method: r.Method, Path: r.URL.Path, Range: r.Header.Get("Range"), Client: r.RemoteAddr,
	}
	defer func() {
		entry.Status, entry.Sent = reply.status, reply.sent
		f.write(&entry)
	}()
	if strings.HasPrefix(r.URL.Path, folderPrefix) {
		f.paced(reply, r, f.folder)
		return
	}
	if strings.HasPrefix(r.URL.Path, nfcPrefix) {
		f.paced(reply, r, f.stream)
		return
	}
	f.call(reply, r, &entry)
}

// paced sends no faster than is ordered. A connection that was made to wait too long, as clocks are, may make up for that with its next answer.
func (f *Front) paced(reply *answer, r *http.Request, send func(*answer, *http.Request)) {
	f.lock.Lock()
	reply.pace = f.throttle
	if reply.pace > 0 {
		reply.began = reply.began.Add(-f.overslept[r.RemoteAddr])
	}
	f.lock.Unlock()
	send(reply, r)
	if reply.pace > 0 {
		f.lock.Lock()
		f.overslept[r.RemoteAddr] = reply.over
		f.lock.Unlock()
	}
}

// call hands a call on to the simulator, unless it is one of those that it lacks.
func (f *Front) call(w *answer, r *http.Request, entry *Entry) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, mostOfACall))
	if err != nil {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	method, err := simulator.UnmarshalBody(types.TypeFunc(), body)
	if err == nil {
		entry.Call = method.Name
	}
	if fault := f.due("sdk", entry.Call); fault != nil && fault.instead(w) {
		return
	}
	if !f.alive(r) {
		// The simulator's own list would still know it.
		r.Header.Del("Cookie")
	}
	if err == nil && f.alive(r) && f.refuses(w, method) {
		return
	}
	if err == nil && f.alive(r) && blocked[method.Name] && f.leases.holds(method.This) {
		busy(w)
		return
	}
	if err == nil && r.Method == http.MethodPost {
		switch asked := method.Body.(type) {
		case *types.QueryChangedDiskAreas:
			if f.alive(r) {
				f.changedAreas(w, asked)
				return
			}
		case *types.ShutdownGuest:
			if f.alive(r) {
				f.shutDown(w, asked)
				return
			}
		case *types.PowerOnVM_Task:
			defer toolsBegin(asked.This)
		case *types.Logout:
			f.forget(r)
		}
		if f.alive(r) && f.leased(w, r, method.Body) {
			return
		}
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if err == nil && changesLife[method.Name] {
		f.estate.life.during(method.This, func() { f.inner.ServeHTTP(w, r) })
	} else {
		f.inner.ServeHTTP(w, r)
	}
	for _, cookie := range (&http.Response{Header: w.Header()}).Cookies() {
		if cookie.Name == sessionCookie {
			f.lock.Lock()
			f.sessions[cookie.Value] = true
			f.lock.Unlock()
		}
	}
}

// folder serves a file of a datastore: whole or a range of it, to those who are logged in.
func (f *Front) folder(w *answer, r *http.Request) {
	if fault := f.due("folder", r.URL.Path); fault != nil {
		if fault.Kind == "forget" {
			f.forgetAll()
		} else if fault.instead(w) || f.broken(w, r, fault) {
			return
		}
	}
	if !f.alive(r) {
		w.Header().Set("WWW-Authenticate", `Basic realm="VMware HTTP server"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if f.lacks("Datastore.Browse") || f.lacks("Datastore.FileManagement") {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	file, info := f.open(r)
	if file == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	defer file.Close()
	f.describe(w, info)
	http.ServeContent(w, r, "", info.ModTime(), file)
}

// describe says what every answer with bytes of a file says of it.
func (f *Front) describe(w *answer, info os.FileInfo) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Last-Modified", info.ModTime().UTC().Format(http.TimeFormat))
	if !f.noETag {
		w.Header().Set("ETag", fmt.Sprintf(`"%x-%x"`, info.ModTime().UnixNano(), info.Size()))
	}
}

// open finds the file that is asked for; nil when there is none.
func (f *Front) open(r *http.Request) (*os.File, os.FileInfo) {
	query := r.URL.Query()
	// A datacenter in a folder is named by its path.
	datacenter := filepath.Base(query.Get("dcPath"))
	directory := f.estate.directory(datacenter, query.Get("dsName"))
	if directory == "" {
		return nil, nil
	}
	at := filepath.Join(directory, filepath.Clean("/"+strings.TrimPrefix(r.URL.Path, folderPrefix)))
	file, err := os.Open(at)
	if err != nil {
		return nil, nil
	}
	info, err := file.Stat()
	if err != nil || info.IsDir() {
		file.Close()
		return nil, nil
	}
	return file, info
}

func (f *Front) alive(r *http.Request) bool {
	cookie, err := r.Cookie(sessionCookie)
	if err != nil {
		return false
	}
	f.lock.Lock()
	defer f.lock.Unlock()
	return f.sessions[strings.Trim(cookie.Value, `"`)]
}

func (f *Front) forget(r *http.Request) {
	if cookie, err := r.Cookie(sessionCookie); err == nil {
		f.lock.Lock()
		delete(f.sessions, cookie.Value)
		f.lock.Unlock()
	}
}

func (f *Front) forgetAll() {
	f.lock.Lock()
	f.sessions = map[string]bool{}
	f.lock.Unlock()
}

func (f *Front) write(entry *Entry) {
	line, err := json.Marshal(entry)
	if err != nil {
		return
	}
	f.lock.Lock()
	defer f.lock.Unlock()
	_, _ = f.journal.Write(append(line, '\n'))
}

// reset ends a connection as a host does that is switched off: nothing more is sent.
func reset(w http.ResponseWriter) {
	if hijacker, ok := w.(http.Hijacker); ok {
		if connection, _, err := hijacker.Hijack(); err == nil {
			if secure, ok := connection.(interface{ NetConn() net.Conn }); ok {
				if plain, ok := secure.NetConn().(*net.TCPConn); ok {
					_ = plain.SetLinger(0)
					_ = plain.Close()
					return
				}
			}
			_ = connection.Close()
		}
	}
}
