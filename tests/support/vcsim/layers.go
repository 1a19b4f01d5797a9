package main

import (
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	seekData = 3
	seekHole = 4
)

// span is a part of a disk.
type span struct{ start, end int64 }

type spans []span

// merged are the same in order, none touching another.
func (s spans) merged() spans {
	sorted := append(spans{}, s...)
	sort.Slice(sorted, func(one, other int) bool { return sorted[one].start < sorted[other].start })
	var result spans
	for _, next := range sorted {
		if last := len(result) - 1; last >= 0 && next.start <= result[last].end {
			if next.end > result[last].end {
				result[last].end = next.end
			}
			continue
		}
		result = append(result, next)
	}
	return result
}

// View is a disk as of one of its files, with what lies below that.
type View struct {
	files []*os.File
	spans []spans
	size  int64
}

func (h *History) view(layer int) (*View, error) {
	view := &View{size: h.size()}
	for _, layer := range h.layers[:layer+1] {
		file, err := os.Open(layer.path)
		if err != nil {
			view.Close()
			return nil, err
		}
		view.files = append(view.files, file)
		view.spans = append(view.spans, append(spans{}, layer.spans...))
	}
	return view, nil
}

// Close ends it.
func (v *View) Close() {
	for _, file := range v.files {
		file.Close()
	}
}

// ReadAt reads what the guest would.
func (v *View) ReadAt(data []byte, offset int64) (int, error) {
	count, err := v.files[0].ReadAt(data, offset)
	for number := 1; number < len(v.files); number++ {
		for _, span := range v.spans[number] {
			start, end := max(span.start, offset), -max(-span.end, -(offset+int64(count)))
			if start < end {
				if _, err := v.files[number].ReadAt(data[start-offset:end-offset], start); err != nil && err != io.EOF {
					return 0, err
				}
			}
		}
	}
	return count, err
}

// in_use are the parts that lie in any of the files.
func (v *View) in_use() spans {
	var found spans
	descriptor := int(v.files[0].Fd())
	for at := int64(0); at < v.size; {
		data, err := syscall.Seek(descriptor, at, seekData)
		if err != nil || data >= v.size {
			break
		}
		hole, err := syscall.Seek(descriptor, data, seekHole)
		if err != nil || hole > v.size {
			hole = v.size
		}
		found = append(found, span{data, hole})
		at = hole
	}
	for _, written := range v.spans {
		found = append(found, written...)
	}
	return found.merged()
}

// path is where a file of a disk lies.
func (e *Estate) path(backing *types.VirtualDiskFlatVer2BackingInfo) string {
	var at object.DatastorePath
	if !at.FromString(backing.FileName) || backing.Datastore == nil {
		return ""
	}
	store, ok := simulator.Map.Get(*backing.Datastore).(*simulator.Datastore)
	if !ok {
		return ""
	}
	return filepath.Join(store.Info.GetDatastoreInfo().Url, strings.TrimPrefix(at.Path, "/"))
}

// references are all snapshots of a tree, the older ones first.
func references(tree []types.VirtualMachineSnapshotTree) []types.ManagedObjectReference {
	var found []types.ManagedObjectReference
	for _, item := range tree {
		found = append(found, item.Snapshot)
		found = append(found, references(item.ChildSnapshotList)...)
	}
	return found
}

func contains(list []types.ManagedObjectReference, wanted types.ManagedObjectReference) bool {
	for _, reference := range list {
		if reference == wanted {
			return true
		}
	}
	return false
}

// obey lets a guest write what is in a file.
func (l *Life) obey(part *Part) error {
	data, err := os.ReadFile(part.File)
	if err != nil {
		return err
	}
	return l.write(part.VM, part.Disk, part.Offset, data)
}

// tell writes what a guest sees, or saw when a snapshot was made, to a file.
func (l *Life) tell(part *Part) error {
	l.lock.Lock()
	defer l.lock.Unlock()
	_, history, err := l.named(part.VM, part.Disk)
	if err != nil {
		return err
	}
	layer := len(history.layers) - 1
	if part.Snapshot != "" {
		frozen, known := history.frozen[types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: part.Snapshot}]
		if !known {
			return os.ErrNotExist
		}
		layer = frozen.layer
	}
	view, err := history.view(layer)
	if err != nil {
		return err
	}
	defer view.Close()
	to, err := os.Create(part.File)
	if err != nil {
		return err
	}
	defer to.Close()
	buffer := make([]byte, 1<<20)
	for _, used := range view.in_use() {
		for at := used.start; at < used.end; {
			count := -max(-int64(len(buffer)), -(used.end - at))
			if _, err = view.ReadAt(buffer[:count], at); err != nil && err != io.EOF {
				return err
			}
			if _, err = to.WriteAt(buffer[:count], at); err != nil {
				return err
			}
			at += count
		}
	}
	return to.Truncate(view.size)
}
