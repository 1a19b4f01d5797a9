package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Fault is something that goes wrong with some requests: `times` of them, after the first `skip` that fit.
type Fault struct {
	// Where: "folder" for files, "nfc" for disks of an export, "sdk" for calls.
	On string `json:"on"`
	// What the path, or the name of the call, has in it.
	Named string `json:"named"`
	Skip  int    `json:"skip"`
	Times int    `json:"times"`
	Kind  string `json:"kind"`
	// Of "status": which, and after how many seconds to come again.
	Status     int `json:"status"`
	RetryAfter int `json:"retry_after"`
	// Of "slow": bytes per second.
	Rate int64 `json:"rate"`
	// On "nfc": after how many bytes of a disk.
	After int64 `json:"after"`
}

// due is the fault for this request, if one is.
func (f *Front) due(on, name string) *Fault {
	f.lock.Lock()
	defer f.lock.Unlock()
	for _, fault := range f.faults {
		if fault.On != on || fault.Times == 0 || !strings.Contains(name, fault.Named) {
			continue
		}
		if fault.Skip > 0 {
			fault.Skip--
			continue
		}
		fault.Times--
		return fault
	}
	return nil
}

// instead answers at once, where the fault needs nothing of the file; says whether it did.
func (fault *Fault) instead(w *answer) bool {
	switch fault.Kind {
	case "status":
		if fault.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(fault.RetryAfter))
		}
		w.WriteHeader(fault.Status)
	case "reset":
		reset(w.ResponseWriter)
	case "silent":
		hang(w)
	case "dripping-head":
		dripHead(w)
	case "dripping":
		if fault.On != "sdk" {
			return false
		}
		w.Header().Set("Content-Type", "text/xml; charset=utf-8")
		w.Header().Set("Content-Length", strconv.Itoa(dripBytes))
		w.WriteHeader(http.StatusOK)
		_ = drip(w, bytes.Repeat([]byte(" "), dripBytes))
	case "slow":
		w.pace = fault.Rate
		return false
	default:
		return false
	}
	return true
}

// broken answers wrongly with bytes of the file; says whether it did.
func (f *Front) broken(w *answer, r *http.Request, fault *Fault) bool {
	file, info := f.open(r)
	if file == nil {
		return false
	}
	defer file.Close()
	size := info.Size()
	start, end := int64(0), size
	asked := strings.TrimPrefix(r.Header.Get("Range"), "bytes=")
	if from, to, found := strings.Cut(asked, "-"); found {
		start, _ = strconv.ParseInt(from, 10, 64)
		if last, err := strconv.ParseInt(to, 10, 64); err == nil && last < size {
			end = last + 1
		}
	}
	length, told, offset := end-start, end-start, start
	status := http.StatusPartialContent
	switch fault.Kind {
	case "truncated", "stalled", "dripping":
		// All is announced, half is sent.
		length /= 2
	case "short":
		// Less is announced than was asked for.
		length = max(1, length-1000)
		told = length
	case "elsewhere":
		// Another range than was asked for.
		offset += 512
	case "whole":
		start, offset, length, told, status = 0, 0, size, size, http.StatusOK
	default:
		return false
	}
	f.describe(w, info)
	w.Header().Set("Content-Length", strconv.FormatInt(told, 10))
	if status == http.StatusPartialContent {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", offset, offset+told-1, size))
	}
	w.WriteHeader(status)
	_, _ = io.Copy(w, io.NewSectionReader(file, start, length))
	if flusher, ok := w.ResponseWriter.(http.Flusher); ok {
		flusher.Flush()
	}
	switch fault.Kind {
	case "truncated":
		reset(w.ResponseWriter)
	case "stalled":
		hang(w)
	case "dripping":
		rest := make([]byte, told-length)
		_, _ = file.ReadAt(rest, start+length)
		_ = drip(w, rest)
	}
	return true
}

// How long such an answer is, of which nothing is served.
const dripBytes = 100000

// A byte comes so often.
const dripEvery = 100 * time.Millisecond

// drip sends a byte now and then, until the other end has gone.
func drip(w *answer, data []byte) error {
	flusher, ok := w.ResponseWriter.(http.Flusher)
	for at := range data {
		if _, err := w.Write(data[at : at+1]); err != nil {
			return err
		}
		if ok {
			flusher.Flush()
		}
		time.Sleep(dripEvery)
	}
	return nil
}

// dripHead never comes to the end of the head of an answer.
func dripHead(w *answer) {
	hijacker, ok := w.ResponseWriter.(http.Hijacker)
	if !ok {
		return
	}
	connection, _, err := hijacker.Hijack()
	if err != nil {
		return
	}
	defer connection.Close()
	for _, data := range []byte("HTTP/1.1 200 OK\r\nX-Much: " + strings.Repeat("x", dripBytes)) {
		if _, err := connection.Write([]byte{data}); err != nil {
			return
		}
		time.Sleep(dripEvery)
	}
}

// hang keeps the connection and says nothing until the other end has gone, or for longer than any test waits.
func hang(w *answer) {
	hijacker, ok := w.ResponseWriter.(http.Hijacker)
	if !ok {
		return
	}
	connection, _, err := hijacker.Hijack()
	if err != nil {
		return
	}
	defer connection.Close()
	_ = connection.SetReadDeadline(time.Now().Add(10 * time.Minute))
	_, _ = connection.Read(make([]byte, 1))
}

func max(one, other int64) int64 {
	if one > other {
		return one
	}
	return other
}
