package auditlog

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(path, []byte("belay 1\nother\nbelay 2\nbelay, not wh"), 0o600); err != nil {
		t.Fatal(err)
	}
	read := func(offset int64, fails error) (lines []string, next int64) {
		next, err := Read(path, offset, "belay", func(line []byte) error { lines = append(lines, string(line)); return fails })
		if !errors.Is(err, fails) {
			t.Fatalf("%v, want %v", err, fails)
		}
		return lines, next
	}
	if lines, next := read(0, nil); !slices.Equal(lines, []string{"belay 1\n", "belay 2\n"}) || next != 22 {
		t.Errorf("read %q, next %d", lines, next)
	}
	if lines, next := read(8, nil); !slices.Equal(lines, []string{"belay 2\n"}) || next != 22 {
		t.Errorf("from 8: read %q, next %d", lines, next)
	}
	if lines, next := read(0, errors.ErrUnsupported); len(lines) != 1 || next != 8 {
		t.Errorf("with an error: read %q, next %d", lines, next)
	}
	if _, err := Read(path+".not", 0, "", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
}
