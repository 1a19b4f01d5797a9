package main

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
)

const (
	sector       = 512
	grainBytes   = 64 << 10
	tableGrains  = 512
	grainMarkers = 3 << 16
	// Before the first grain, as hosts have it.
	overhead = 128
)

// stream writes a disk as hosts send it, from its beginning to its end: grains that hold something, a table behind each 512, then the directory,
// a footer and the mark of the end.
type stream struct {
	to  io.Writer
	at  uint64
	err error
}

func (s *stream) write(data []byte) {
	if s.err == nil {
		_, s.err = s.to.Write(data)
		s.at += uint64(len(data))
	}
}

// sectors writes data with zeros behind it, up to the next sector.
func (s *stream) sectors(data []byte) {
	s.write(append(data, make([]byte, (sector-len(data)%sector)%sector)...))
}

func (s *stream) marker(kind uint32, count int) {
	marker := make([]byte, sector)
	binary.LittleEndian.PutUint64(marker, uint64(count))
	binary.LittleEndian.PutUint32(marker[12:], kind)
	s.write(marker)
}

func streamHeader(capacity, directory uint64) []byte {
	header := make([]byte, sector)
	copy(header, "KDMV")
	binary.LittleEndian.PutUint32(header[4:], 3)
	binary.LittleEndian.PutUint32(header[8:], 1|grainMarkers)
	for at, number := range map[int]uint64{12: capacity, 20: grainBytes / sector, 28: 1, 36: 20, 56: directory, 64: overhead} {
		binary.LittleEndian.PutUint64(header[at:], number)
	}
	binary.LittleEndian.PutUint32(header[44:], tableGrains)
	copy(header[73:], "\n \r\n\x01\x00")
	return header
}

const streamDescriptor = `# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RDONLY 1 SPARSE "generated-stream.vmdk"
`

func streamed(to io.Writer, disk io.ReaderAt, size int64) error {
	s := &stream{to: to}
	capacity := uint64(size / sector)
	s.write(streamHeader(capacity, 0xffffffffffffffff))
	s.sectors([]byte(streamDescriptor))
	s.write(make([]byte, overhead*sector-s.at))
	var table, directory []byte
	entry := func(list []byte, number uint64) []byte {
		return append(list, binary.LittleEndian.AppendUint32(nil, uint32(number))...)
	}
	flush := func() {
		if len(bytes.Trim(table, "\x00")) == 0 {
			directory = entry(directory, 0)
		} else {
			table = append(table, make([]byte, tableGrains*4-len(table))...)
			s.marker(1, len(table)/sector)
			directory = entry(directory, s.at/sector)
			s.write(table)
		}
		table = nil
	}
	grain := make([]byte, grainBytes)
	zeros := make([]byte, grainBytes)
	var packed bytes.Buffer
	packer, _ := zlib.NewWriterLevel(&packed, zlib.BestSpeed)
	for at := int64(0); at < size && s.err == nil; at += grainBytes {
		count, err := disk.ReadAt(grain, at)
		if err != nil && err != io.EOF {
			return err
		}
		copy(grain[count:], zeros)
		if bytes.Equal(grain, zeros) {
			table = entry(table, 0)
		} else {
			table = entry(table, s.at/sector)
			packed.Reset()
			packer.Reset(&packed)
			_, _ = packer.Write(grain)
			_ = packer.Close()
			marker := binary.LittleEndian.AppendUint64(nil, uint64(at/sector))
			marker = binary.LittleEndian.AppendUint32(marker, uint32(packed.Len()))
			s.sectors(append(marker, packed.Bytes()...))
		}
		if len(table) == tableGrains*4 {
			flush()
		}
	}
	if len(table) > 0 {
		flush()
	}
	directory = append(directory, make([]byte, (sector-len(directory)%sector)%sector)...)
	s.marker(2, len(directory)/sector)
	begin := s.at / sector
	s.write(directory)
	s.marker(3, 1)
	s.write(streamHeader(capacity, begin))
	s.write(make([]byte, sector))
	return s.err
}

// sentBefore sends what was packed when it was first asked for.
func sentBefore(to io.Writer, name string, disk io.ReaderAt, size int64) error {
	at := filepath.Join(os.TempDir(), "packed-"+name)
	if _, err := os.Stat(at); err != nil {
		file, err := os.Create(at)
		if err != nil {
			return err
		}
		err = streamed(file, disk, size)
		file.Close()
		if err != nil {
			return err
		}
	}
	file, err := os.Open(at)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{file}, make([]byte, 256<<10))
	return err
}
