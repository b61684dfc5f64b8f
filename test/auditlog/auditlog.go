// Package auditlog reads what the API server of the embedded cluster writes down: who asked for what, a line of JSON for
// each request. A request is answered after its line is written.
package auditlog

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
)

// Read calls do with each line from offset on that contains text. It returns where to go on: after the last line, or
// after the one for which do returned an error. What is left at the end is a line that is not whole yet.
func Read(path string, offset int64, text string, do func(line []byte) error) (next int64, err error) {
	file, err := os.Open(path)
	if err != nil {
		return offset, err
	}
	defer file.Close()
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		return offset, err
	}
	lines := bufio.NewReaderSize(file, 1<<20)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return offset, nil
		}
		if err != nil {
			return offset, err
		}
		offset += int64(len(line))
		if !bytes.Contains(line, []byte(text)) {
			continue
		}
		if err := do(line); err != nil {
			return offset, err
		}
	}
}
